"""The command `hushrec serve`: what it refuses, its tokens, and a service that answers until it is told to stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from hushrec.common.errors import ConfigError
from hushrec.simulations.serve_command import serve_app


def call(*arguments: object) -> Any:
    return CliRunner().invoke(serve_app, [str(argument) for argument in arguments])


def test_the_help_shows_examples_and_every_option() -> None:
    text = call("--help").output
    for word in ("Examples", "--tokens", "--open", "--workers", "--tls-cert", "--federations", "RUN_OR_BUNDLE"):
        assert word in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "the service needs tokens"),
        (["--host", "0.0.0.0"], "to listen on 0.0.0.0, the service needs tokens"),
        (["--host", "0.0.0.0", "--open"], "--open is for this machine alone"),
        (["--open", "--tls-cert", "x"], "--tls-cert and --tls-key go together"),
        (["--open", "--runs", "nowhere"], "--runs names no folder"),
        (["--tokens", "nowhere.json"], "cannot read the tokens"),
        (["--open", "--port", "1023", "--host", "localhost"], "no bundle in"),
    ],
)
def test_what_would_let_the_wrong_people_in_is_refused(options: list[str], says: str, tmp_path: Path) -> None:
    if says == "no bundle in":
        options[options.index("--port") + 1] = str(free_port())
    result = call(tmp_path / "none", *options)
    assert says in str(result.exception)
    assert isinstance(result.exception, Exception)


def test_a_token_is_shown_once_and_can_be_revoked(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    made = call("token", "new", "--scope", "read", "--name", "shop", "--tokens", file)
    token = made.stdout.strip()
    assert token.startswith("hushrec_")
    assert token not in file.read_text()
    assert call("token", "list", "--tokens", file).stdout == "shop\tread\t600 per minute\n"
    assert isinstance(call("token", "new", "--scope", "root", "--tokens", file).exception, ConfigError)
    assert call("token", "revoke", "shop", "--tokens", file).exit_code == 0
    assert call("token", "list", "--tokens", file).stdout == ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_run_is_served_until_sigterm(smoke_run: Path, hushrec: Callable[..., Any], tmp_path: Path) -> None:
    run, port = tmp_path / "run", free_port()
    shutil.copytree(smoke_run, run)
    process = hushrec("serve", run, "--open", "--port", port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
        deadline = time.monotonic() + 120
        while True:
            try:
                assert client.get("/readyz").json()["ready"]
                break
            except httpx.TransportError:
                assert process.child.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert client.post("/v1/recommend", json={"query": "a comedy", "n": 3}).json()["items"]
        assert "hushrec_requests_total" in client.get("/metrics").text
    os.kill(process.pid, signal.SIGTERM)
    ended = process.wait(60)
    assert f"http://127.0.0.1:{port}/" in ended.stderr
    assert "Traceback" not in ended.stderr
