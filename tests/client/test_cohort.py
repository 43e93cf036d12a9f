"""From messages to answers: one client's failure stays its own, refusals say one word, and the ledger knows it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from transformers import BertConfig, BertModel

from hushrec.client import cohort, private
from hushrec.client.app import app
from hushrec.client.cohort import answer_query, answer_train
from hushrec.client.rows import Row
from hushrec.client.store import count_clients
from hushrec.common.budget import training_event
from hushrec.common.config import RunConfig
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ProtocolError
from hushrec.common.ledger import Ledger, read_ledger
from hushrec.common.protocol import (
    ALLOWED,
    TrainRequest,
    Update,
    query_content,
    read_update,
    reply_sha256,
    train_content,
)
from hushrec.common.run_ledger import close_ledgers, open_ledger
from hushrec.common.workspace import Model, shared_model

SECRET = "Alice watched Titanic"
Answer = Callable[[Sequence[Message], Sequence[Context]], list[Message]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny BERT that knows the words of the synthetic catalogue."""
    folder = tmp_path_factory.mktemp("bert")
    texts = load_dataset("synthetic").catalog.texts
    words = sorted({word.strip("().").lower() for text in texts for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words) + 5, initializer_range=0.3, **size)).save_pretrained(folder)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSHREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield str(folder)


@pytest.fixture
def config(base: str, tmp_path: Path) -> Iterator[RunConfig]:
    yield RunConfig.from_flat(
        {
            "data.name": "synthetic",
            "model.base": base,
            "model.dtype": "float32",
            "model.head-dim": 4,
            "model.r": 2,
            "train.negatives": 6,
            "federation.wire": "float32",
            "privacy.noise-multiplier": 4.0,
            "privacy.popularity-noise-multiplier": 6.0,
            "privacy.target-epsilon": 8.0,
            "run.directory": str(tmp_path),
        }
    )
    close_ledgers()


def model_of(config: RunConfig) -> Model:
    return shared_model(config.model, config.data)


def content_of(config: RunConfig, server_round: int = 1, seed: int = 5) -> RecordDict:
    model = model_of(config)
    rng = np.random.default_rng(0)
    adapter = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in sorted(model.shapes.items())}
    prior = np.zeros(len(model.prefix), np.float32)
    return train_content(TrainRequest(adapter, prior, server_round, seed), "float32")


def ask(
    config: RunConfig,
    clients: Sequence[int],
    answer: Answer = answer_train,
    content: RecordDict | None = None,
    server_round: int = 1,
) -> list[Message]:
    training = answer is answer_train
    asked = content_of(config, server_round) if training else query_content("popularity")
    shared = asked if content is None else content
    kind = MessageType.TRAIN if training else MessageType.QUERY
    messages = [Message(shared, dst_node_id=n + 1, message_type=kind) for n in clients]
    contexts = [Context(1, n + 1, {"partition-id": n}, RecordDict(), config.to_flat()) for n in clients]
    return answer(messages, contexts)


def codes(answers: Sequence[Message]) -> list[str]:
    """The refusal's word, or "" for an answer."""
    return [str(answer.error.reason) if answer.has_error() else "" for answer in answers]


def update_of(config: RunConfig, answer: Message, most: int = 99) -> Update:
    return read_update(answer, model_of(config).shapes, most_clients=most)


def ledger_of(config: RunConfig) -> Path:
    return Path(config.run.directory) / "ledger.jsonl"


# --- ordinary rounds ---


def test_a_private_round_answers_every_client_and_commits_what_was_sent(config: RunConfig) -> None:
    answers = ask(config, [3, 0, 7])
    assert codes(answers) == ["", "", ""]
    ledger = read_ledger(ledger_of(config))
    assert not ledger.pending()
    for client, answer in zip(["device-3", "device-0", "device-7"], answers, strict=True):
        assert update_of(config, answer).clients == 1
        record = answer.content["update"]
        assert isinstance(record, ArrayRecord)
        assert ledger.last_reply(client) == (1, reply_sha256(record))
        assert ledger.events(client) == (training_event(config),)
    assert ledger.events("device-1") == ()


def test_nothing_but_the_allowed_fields_leaves_a_client(config: RunConfig) -> None:
    for answer in [*ask(config, [0, 1]), *ask(config, [0, 1], answer_query)]:
        metrics = answer.content["metrics"]
        assert {*answer.content, *metrics} - {"metrics"} <= set(ALLOWED)
        assert metrics == {"num-examples": 1, "num-clients": 1}


@pytest.mark.parametrize(("steps", "size"), [(1, 64), (3, 64), (1, 2)])
def test_a_cohort_answers_like_its_clients_one_by_one(
    config: RunConfig, steps: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "COHORT", size)
    monkeypatch.setattr(private, "secret_gaussian", torch.zeros)
    config = config.replace(train__local_steps=steps)
    together = [update_of(config, answer).arrays for answer in ask(config, [0, 1, 2])]
    single = [update_of(config, ask(config, [n], server_round=1)[0]).arrays for n in (0, 1, 2)]
    for a, b in zip(together, single, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], atol=1e-5)
    assert any(np.abs(value).max() > 1e-3 for value in together[0].values())


@pytest.mark.parametrize("steps", [1, 3])
def test_without_privacy_a_cohort_answers_with_the_sum_of_its_clients(config: RunConfig, steps: int) -> None:
    clear = config.replace(privacy__mechanism="none", train__local_steps=steps, run__directory="")
    together = [update_of(clear, answer) for answer in ask(clear, [0, 1, 2])]
    single = [update_of(clear, ask(clear, [n])[0]) for n in (0, 1, 2)]
    assert sum(update.clients for update in together) == sum(update.clients for update in single) == 3
    for name in model_of(clear).shapes:
        total = sum(update.arrays[name] for update in together if update.clients)
        np.testing.assert_allclose(total, sum(update.arrays[name] for update in single), atol=1e-5)


def test_an_open_round_after_a_private_one_is_as_if_there_had_been_none(config: RunConfig) -> None:
    clear = config.replace(privacy__mechanism="none")
    before = update_of(clear, ask(clear, [0, 1])[0]).arrays
    ask(config, [0, 1])
    after = update_of(clear, ask(clear, [0, 1])[0]).arrays
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_ten_rounds_over_ten_restarts_cost_what_one_long_run_costs(config: RunConfig) -> None:
    for server_round in range(1, 11):
        assert codes(ask(config, [4], server_round=server_round)) == [""]
        close_ledgers()
    (event,) = read_ledger(ledger_of(config)).events("device-4")
    assert (event.noise_multiplier, event.sample_rate, event.steps) == (4.0, 1.0, 10)


def test_the_popularity_release_is_charged_once_as_planned(config: RunConfig) -> None:
    answers = ask(config, [0, 1], answer_query)
    assert codes(answers) == ["", ""]
    counts = read_update(answers[0], {"counts": (len(model_of(config).prefix),)}, field="counts")
    assert np.abs(counts.arrays["counts"]).max() > 3  # noise of 6 per item
    (event,) = read_ledger(ledger_of(config)).events("device-0")
    assert (event.kind, event.noise_multiplier) == ("popularity", 6.0)


def test_a_popularity_release_that_is_not_planned_is_refused(config: RunConfig) -> None:
    unplanned = config.replace(privacy__popularity_noise_multiplier=0)
    assert codes(ask(unplanned, [0, 1], answer_query)) == ["PRIVACY_REFUSED"] * 2
    assert read_ledger(ledger_of(config)).clients() == ()


def test_the_flower_app_is_the_cohort_of_one(config: RunConfig) -> None:
    message = Message(content_of(config), dst_node_id=1, message_type=MessageType.TRAIN)
    answer = app(message, Context(1, 1, {"partition-id": 2}, RecordDict(), config.to_flat()))
    assert update_of(config, answer).clients == 1
    assert read_ledger(ledger_of(config)).events("device-2") == (training_event(config),)


# --- refusals ---


def test_a_spent_budget_is_refused_by_its_word_and_leaves_the_ledger_as_it_was(config: RunConfig) -> None:
    config = config.replace(privacy__target_epsilon=1.6)
    rounds = 0
    while codes(answers := ask(config, [0], server_round=rounds + 1)) == [""]:
        rounds += 1
        assert rounds < 99
    assert rounds > 1
    assert codes(answers) == ["BUDGET_EXHAUSTED"]
    content = ledger_of(config).read_bytes()
    assert codes(ask(config, [0], server_round=99)) == ["BUDGET_EXHAUSTED"]
    assert ledger_of(config).read_bytes() == content
    assert codes(ask(config, [0, 1], server_round=99)) == ["BUDGET_EXHAUSTED", ""]


@dataclass(frozen=True)
class Odd:
    """A store whose data cannot be read."""

    client: str
    ledger: Ledger | None
    error: BaseException

    @property
    def rows(self) -> tuple[Row, ...]:
        raise self.error


@pytest.fixture
def odd(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Client 1 fails with an error as soon as its data are read."""
    real = cohort.open_store

    def install(error: BaseException) -> None:
        def opened(config: RunConfig, node: Any) -> Any:
            store = real(config, node)
            return Odd(store.client, store.ledger, error) if node["partition-id"] == 1 else store

        monkeypatch.setattr(cohort, "open_store", opened)

    return install


ERRORS = [ValueError(SECRET), KeyError(SECRET), RuntimeError(SECRET), MemoryError(SECRET), OSError(SECRET)]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("answer", [answer_train, answer_query])
def test_a_client_that_fails_answers_with_one_word_and_the_others_as_usual(
    config: RunConfig, odd: Callable[[BaseException], None], error: Exception, answer: Answer
) -> None:
    odd(error)
    answers = ask(config, [0, 1, 2], answer)
    assert codes(answers) == ["", "CLIENT_FAILED", ""]
    assert SECRET not in str(answers[1])
    ledger = read_ledger(ledger_of(config))
    assert ledger.events("device-1")  # paid all the same
    assert ledger.last_reply("device-1") is None
    assert ledger.last_reply("device-2") is not None


def test_without_privacy_the_others_of_a_failing_cohort_are_summed_too(
    config: RunConfig, odd: Callable[[BaseException], None]
) -> None:
    clear = config.replace(privacy__mechanism="none")
    expected = [update_of(clear, ask(clear, [n])[0]).arrays for n in (0, 2)]
    odd(ValueError(SECRET))
    answers = ask(clear, [0, 1, 2])
    assert codes(answers) == ["", "CLIENT_FAILED", ""]
    found = [update_of(clear, answers[n]) for n in (0, 2)]
    assert sum(update.clients for update in found) == 2
    for name in model_of(clear).shapes:
        np.testing.assert_allclose(
            sum(update.arrays[name] for update in found), sum(arrays[name] for arrays in expected), atol=1e-5
        )


def test_a_crash_while_computing_is_charged(config: RunConfig, odd: Callable[[BaseException], None]) -> None:
    odd(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        ask(config, [0, 1])
    close_ledgers()
    ledger = read_ledger(ledger_of(config))
    assert ledger.events("device-0") == ledger.events("device-1") == (training_event(config),)
    assert len(ledger.pending()) == 1


def test_a_refused_client_reads_no_data(config: RunConfig, odd: Callable[[BaseException], None]) -> None:
    config = config.replace(privacy__target_epsilon=0.3)
    odd(KeyboardInterrupt("data were read"))
    assert codes(ask(config, [1])) == ["BUDGET_EXHAUSTED"]
    assert codes(ask(config, [1], answer_query)) == ["BUDGET_EXHAUSTED"]


def test_without_a_ledger_a_private_client_refuses(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    no_ledger = Odd("device-0", None, KeyboardInterrupt())
    monkeypatch.setattr(cohort, "open_store", lambda *_: no_ledger)
    assert codes(ask(config, [0])) == ["PRIVACY_REFUSED"]


def test_a_client_without_rows_is_charged_and_answers_with_noise(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cohort.open_store

    def opened(config: RunConfig, node: Any) -> Any:
        store = real(config, node)
        return type(store)(store.client, (), store.ledger)

    monkeypatch.setattr(cohort, "open_store", opened)
    (answer,) = ask(config, [0])
    assert all((value != 0).all() for value in update_of(config, answer).arrays.values())
    assert read_ledger(ledger_of(config)).events("device-0") == (training_event(config),)


def test_a_client_that_does_not_exist_or_lacks_a_ledger_file_is_refused(config: RunConfig) -> None:
    assert codes(ask(config, [0, count_clients(config), 1])) == ["", "CLIENT_ERROR", ""]
    assert codes(ask(config.replace(run__directory=""), [0])) == ["CLIENT_ERROR"]


def test_constants_that_the_ledger_does_not_know_are_refused(config: RunConfig) -> None:
    open_ledger(config)
    assert codes(ask(config.replace(privacy__noise_multiplier=1.0), [0])) == ["PRIVACY_REFUSED"]
    close_ledgers()
    assert codes(ask(config.replace(privacy__noise_multiplier=1.0), [0])) == ["PRIVACY_REFUSED"]


def test_a_client_asked_twice_at_once_answers_once(config: RunConfig) -> None:
    assert codes(ask(config, [0, 0, 1])) == ["", "PRIVACY_REFUSED", ""]
    assert read_ledger(ledger_of(config)).events("device-0") == (training_event(config),)


BAD: dict[str, tuple[str, Callable[[RecordDict], Any]]] = {
    "no adapter": ("BAD_REQUEST", lambda c: c.pop("adapter")),
    "no seed": ("BAD_REQUEST", lambda c: c["config"].pop("seed")),
    "a setting more": ("UNKNOWN_FIELD", lambda c: c["config"].update({"privacy.noise-multiplier": 0.0})),
    "another shape": ("WRONG_SHAPE", lambda c: c["adapter"].pop("mix.weight")),
}


@pytest.mark.parametrize("what", BAD)
def test_a_request_that_is_not_as_agreed_is_refused_before_anything_is_paid(config: RunConfig, what: str) -> None:
    code, damage = BAD[what]
    content = content_of(config)
    damage(content)
    assert codes(ask(config, [0, 1], content=content)) == [code] * 2
    assert read_ledger(ledger_of(config)).clients() == ()


def test_a_message_for_another_round_than_the_cohorts_is_refused(config: RunConfig) -> None:
    contents = [content_of(config, 1), content_of(config, 2), content_of(config, 1)]
    messages = [Message(c, dst_node_id=n + 1, message_type=MessageType.TRAIN) for n, c in enumerate(contents)]
    contexts = [Context(1, n + 1, {"partition-id": n}, RecordDict(), config.to_flat()) for n in range(3)]
    assert codes(answer_train(messages, contexts)) == ["", "BAD_REQUEST", ""]


def test_an_update_too_large_for_the_wire_is_refused_and_stays_charged(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = config.replace(federation__wire="float16", train__learning_rate=1e7)
    assert codes(ask(huge, [0])) == ["UPDATE_TOO_LARGE"]
    assert read_ledger(ledger_of(config)).events("device-0") == (training_event(config),)


def test_a_refusal_is_an_error_for_whoever_reads_it(config: RunConfig) -> None:
    (answer,) = ask(config, [count_clients(config)])
    with pytest.raises(ProtocolError) as caught:
        update_of(config, answer)
    assert caught.value.code == "CLIENT_ERROR"
