"""What the OpenAPI document says is what the service does: schemathesis asks every operation, also wrongly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from support.serving import Running, running

from hushrec.common.bundle import Bundle
from hushrec.server.serving.app import described_app
from hushrec.server.serving.tokens import new_token

EXAMPLES = 50  # of each operation, beside the borders of every value
# A body can be as described and still name a rule, a group or texts that mean nothing here.
MEANING = {("POST", "/v1/recommend"), ("PUT", "/v1/items")}
REFUSALS = ["400", "401", "403", "404", "405", "409", "413", "414", "415", "422"]
CONFIG = SchemathesisConfig.from_dict(
    {
        "generation": {"with-security-parameters": False},  # the test sends its own
        "checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}},
    }
)
load_all_checks()
schema = schemathesis.openapi.from_dict(described_app().openapi(), config=CONFIG)


@pytest.fixture(scope="module")
def asked(made: tuple[Bundle, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "runs" / "0").mkdir(parents=True)
    (folder / "runs" / "0" / "results.json").write_text("{}")
    token = new_token(folder / "tokens.json", "all", ["read", "items", "admin"], 10_000_000)
    with running(made[1], folder, interval=60, runs=str(folder / "runs")) as service:
        yield service, token


def test_the_document_that_is_tested_is_the_one_that_is_served(asked: tuple[Running, str]) -> None:
    assert asked[0].ask("GET", "/openapi.json", "").json() == json.loads(json.dumps(described_app().openapi()))


@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_every_operation_answers_as_the_document_says(case: Any, asked: tuple[Running, str]) -> None:
    service, token = asked
    excluded = CHECKS.get_by_names(["positive_data_acceptance"]) if (case.method, case.path) in MEANING else []
    headers = {"Authorization": f"Bearer {token}"} if case.path.startswith("/v1") else {}
    url = f"http://127.0.0.1:{service.port}"
    response = case.call_and_validate(base_url=url, headers=headers, excluded_checks=excluded)
    if response.status_code >= 400 and case.method != "HEAD":
        assert list(response.json()) == ["error"]
