"""What crosses the network: read strictly, refused with a fixed word, and never more than the allowed fields."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.errors import (
    ConfigError,
    DataError,
    LedgerCorrupted,
    PrivacyBudgetExhausted,
    PrivacyError,
    ProtocolError,
)
from hushrec.common.protocol import (
    ALLOWED,
    CODES,
    ERROR_CODE,
    MAX_UPDATE,
    TrainRequest,
    Update,
    pack,
    payload_bytes,
    read_train,
    read_update,
    refusal,
    refusal_code,
    reply,
    reply_sha256,
    total_bytes,
    train_content,
    unpack,
)

SHAPES = {"a": (2, 3), "b": (4,)}
ITEMS = 5
SECRET = "Alice watched Titanic"


@pytest.fixture(scope="module", autouse=True)
def _task() -> None:
    """Flower writes who sends a message into it; any numbers will do."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def arrays(scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


def request() -> TrainRequest:
    return TrainRequest(arrays(), np.arange(ITEMS, dtype=np.float32), 3, 2**62)


def train_message(content: RecordDict | None = None) -> Message:
    content = train_content(request(), "float32") if content is None else content
    return Message(content, dst_node_id=1, message_type=MessageType.TRAIN)


def answered(content: RecordDict) -> Message:
    return Message(content, reply_to=train_message())


def refused(code: str | None, read: Any, *args: Any, **options: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        read(*args, **options)
    assert caught.value.code in CODES
    assert code is None or caught.value.code == code
    return caught.value


def read_or_code(read: Any, *args: Any, **options: Any) -> Any:
    """What was read, or the code of the refusal; any other error fails the test."""
    try:
        return read(*args, **options)
    except ProtocolError as error:
        return error.code


def npy(value: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


@pytest.mark.parametrize(("wire", "tolerance"), [("float32", 0.0), ("float16", 1e-3)])
def test_arrays_survive_the_wire(wire: Any, tolerance: float) -> None:
    read = unpack(pack(arrays(), wire), SHAPES)
    assert list(read) == list(SHAPES)
    for name, value in arrays().items():
        np.testing.assert_allclose(read[name], value, rtol=tolerance)
        assert read[name].dtype == np.float32


def test_sixteen_bits_halve_the_bytes() -> None:
    large = {"a": np.ones((100, 100), np.float32)}
    assert payload_bytes(pack(large, "float16")) == pytest.approx(20_000, abs=200)
    assert total_bytes([pack(large, "float32")] * 2) == pytest.approx(80_000, abs=400)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_never_sent(value: float) -> None:
    refused("NOT_FINITE", pack, {"a": np.array([1, value], np.float32)}, "float32")


def test_a_value_too_large_for_the_wire_is_not_sent_as_infinity() -> None:
    refused("UPDATE_TOO_LARGE", pack, {"a": np.array([7e4], np.float32)}, "float16")
    assert np.isfinite(unpack(pack({"a": np.array([6.5e4], np.float32)}, "float16"), {"a": (1,)})["a"]).all()
    unpack(pack({"a": np.array([7e4], np.float32)}, "float32"), {"a": (1,)})


def test_a_request_survives_the_wire() -> None:
    read, sent = read_train(train_message(), SHAPES, ITEMS), request()
    assert (read.server_round, read.seed) == (sent.server_round, sent.seed)
    np.testing.assert_array_equal(read.log_popularity, sent.log_popularity)
    assert all(np.array_equal(read.adapter[name], sent.adapter[name]) for name in SHAPES)


def test_a_reply_holds_the_allowed_fields_and_constants_only() -> None:
    for field in ("update", "counts"):
        content = reply(train_message(), Update(arrays(), 1), "float32", field).content  # type: ignore[arg-type]
        metrics = content["metrics"]
        assert set(content) == {field, "metrics"}
        assert isinstance(metrics, MetricRecord)
        assert dict(metrics) == {"num-examples": 1, "num-clients": 1}
        assert {field, *metrics} <= set(ALLOWED)
    assert set(ALLOWED.values()) == {"noised", "public"}


def test_an_update_survives_the_wire_and_a_sum_says_for_how_many() -> None:
    read = read_update(reply(train_message(), Update(arrays(), 3), "float32"), SHAPES, most_clients=3)
    assert read.clients == 3
    assert all(np.array_equal(read.arrays[name], value) for name, value in arrays().items())
    assert read_update(reply(train_message(), Update({}, 0), "float32"), SHAPES) == Update({}, 0)


def test_the_hash_of_a_reply_follows_every_array_and_no_order() -> None:
    first = pack(arrays(), "float32")
    backwards = pack(dict(reversed(arrays().items())), "float32")
    assert reply_sha256(first) == reply_sha256(backwards)
    assert reply_sha256(first) != reply_sha256(pack({**arrays(), "b": np.zeros(4, np.float32)}, "float32"))


DAMAGED: dict[str, tuple[str, Any]] = {
    "a tensor missing": ("WRONG_SHAPE", lambda r: r.pop("a")),
    "a tensor more": ("WRONG_SHAPE", lambda r: r.update(c=Array(np.zeros(1, np.float32)))),
    "another name": ("WRONG_SHAPE", lambda r: r.update(c=r.pop("a"))),
    "another shape": ("WRONG_SHAPE", lambda r: r.update(a=Array(np.zeros((3, 2), np.float32)))),
    "one dimension less": ("WRONG_SHAPE", lambda r: r.update(a=Array(np.zeros(6, np.float32)))),
    "an empty tensor": ("WRONG_SHAPE", lambda r: r.update(a=Array(np.zeros((0, 3), np.float32)))),
    "whole numbers": ("WRONG_TYPE", lambda r: r.update(a=Array(np.zeros((2, 3), np.int32)))),
    "double precision": ("WRONG_TYPE", lambda r: r.update(a=Array(np.zeros((2, 3))))),
    "complex numbers": ("WRONG_TYPE", lambda r: r.update(a=Array(np.zeros((2, 3), np.complex64)))),
    "text": ("WRONG_TYPE", lambda r: r.update(a=Array(np.full((2, 3), "x")))),
    "NaN": ("NOT_FINITE", lambda r: r.update(a=Array(np.full((2, 3), np.nan, np.float32)))),
    "infinity": ("NOT_FINITE", lambda r: r.update(b=Array(np.full(4, -np.inf, np.float16)))),
    "too many bytes": ("OVERSIZED", lambda r: r.update(a=Array("float32", (2, 3), "numpy.ndarray", b"x" * 2000))),
    "another serialisation": ("WRONG_TYPE", lambda r: r.update(a=Array("float32", (2, 3), "pickle", b"x"))),
    "no bytes": ("WRONG_TYPE", lambda r: r.update(a=Array("float32", (2, 3), "numpy.ndarray", b""))),
    "the start of a zip": ("WRONG_TYPE", lambda r: r.update(a=Array("float32", (2, 3), "numpy.ndarray", b"PK\3\4xx"))),
    "another header than announced": (
        "WRONG_SHAPE",
        lambda r: r.update(a=Array("float32", (2, 3), "numpy.ndarray", npy(np.zeros((1, 3), np.float32)))),
    ),
    "another byte order": (
        "WRONG_SHAPE",
        lambda r: r.update(a=Array("float32", (2, 3), "numpy.ndarray", npy(np.zeros((2, 3), ">f4")))),
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_arrays_are_refused_in_replies_and_requests(what: str) -> None:
    code, damage = DAMAGED[what]
    record = pack(arrays(), "float32")
    damage(record)
    refused(code, unpack, record, SHAPES)
    content = RecordDict({"update": record, "metrics": MetricRecord({"num-examples": 1, "num-clients": 1})})
    refused(code, read_update, answered(content), SHAPES)
    asked = train_content(request(), "float32")
    asked["adapter"] = record
    refused(code, read_train, train_message(asked), SHAPES, ITEMS)


def header(text: str) -> bytes:
    body = text.encode("latin-1", "replace")
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


GARBAGE = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=200).map(lambda rest: b"\x93NUMPY\x01\x00" + rest),
    st.binary(max_size=200).map(lambda rest: b"PK\x03\x04" + rest),
    st.text(st.characters(max_codepoint=255), max_size=100).map(header),
    st.sampled_from(
        [
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"),
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 40 + ",), }"),
            header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }") + b"x" * 24,
            header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3), }") + b"x" * 24,
            header("(" * 900),
            header("'" * 3 + "\n  \n x"),
        ]
    ),
)


@given(data=GARBAGE)
@settings(max_examples=300, deadline=None)
def test_no_bytes_whatever_lead_to_anything_but_a_protocol_error(data: bytes) -> None:
    record = pack(arrays(), "float32")
    record["a"] = Array("float32", (2, 3), "numpy.ndarray", data)
    refused(None, unpack, record, SHAPES)


@given(place=st.integers(0, 151), xor=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_one_changed_byte_is_refused_or_changes_one_number(place: int, xor: int) -> None:
    data = bytearray(npy(arrays()["a"]))
    assert len(data) == 152
    data[place] ^= xor
    record = pack(arrays(), "float32")
    record["a"] = Array("float32", (2, 3), "numpy.ndarray", bytes(data))
    read = read_or_code(unpack, record, SHAPES)
    if isinstance(read, str):
        assert read in CODES
    else:
        assert np.isfinite(read["a"]).all()
        assert read["a"].shape == (2, 3)


METRICS = st.dictionaries(
    st.sampled_from(["num-examples", "num-clients", "loss", "x"]),
    st.one_of(st.integers(-3, 9), st.floats(allow_nan=True), st.lists(st.integers(0, 3), max_size=2)),
)


@given(
    metrics=METRICS, field=st.sampled_from(["update", "counts", "loss"]), extra=st.booleans(), most=st.integers(0, 4)
)
@settings(max_examples=200, deadline=None)
def test_a_reply_is_either_exactly_as_allowed_or_refused(
    metrics: Mapping[str, Any], field: str, extra: bool, most: int
) -> None:
    content = RecordDict({field: pack(arrays(), "float32"), "metrics": MetricRecord(dict(metrics))})
    if extra:
        content["config"] = ConfigRecord({"who": SECRET})
    update = read_or_code(read_update, answered(content), SHAPES, most_clients=most)
    if isinstance(update, str):
        assert update in CODES
    else:
        assert not extra
        assert field == "update"
        assert dict(metrics) == {"num-examples": 1, "num-clients": update.clients}
        assert type(metrics["num-clients"]) is int
        assert 1 <= update.clients <= most


@pytest.mark.parametrize(
    ("metrics", "code"),
    [
        ({"num-examples": 17, "num-clients": 1}, "BAD_COUNT"),
        ({"num-examples": 1, "num-clients": 2}, "BAD_COUNT"),
        ({"num-examples": 1, "num-clients": -1}, "BAD_COUNT"),
        ({"num-examples": 1, "num-clients": 1.0}, "BAD_COUNT"),
        ({"num-examples": 1, "num-clients": 0}, "BAD_COUNT"),  # it carries arrays
        ({"num-examples": 1, "num-clients": [1]}, "BAD_COUNT"),
        ({"num-examples": 1}, "UNKNOWN_FIELD"),
        ({"num-examples": 1, "num-clients": 1, "loss": 0.5}, "UNKNOWN_FIELD"),
    ],
)
def test_a_wrong_count_or_a_metric_more_is_refused(metrics: dict[str, Any], code: str) -> None:
    content = RecordDict({"update": pack(arrays(), "float32"), "metrics": MetricRecord(metrics)})
    refused(code, read_update, answered(content), SHAPES)


def test_counts_speak_for_one_client_each() -> None:
    counts = {"counts": np.ones(ITEMS, np.float32)}
    shapes = {"counts": (ITEMS,)}
    assert read_update(reply(train_message(), Update(counts, 1), "float32", "counts"), shapes, field="counts").clients
    empty = reply(train_message(), Update({}, 0), "float32", "counts")
    refused("BAD_COUNT", read_update, empty, shapes, field="counts")


@pytest.mark.parametrize("swap", [("update", "metrics"), ("metrics", "update")])
def test_records_of_another_kind_are_refused(swap: tuple[str, str]) -> None:
    content = reply(train_message(), Update(arrays(), 1), "float32").content
    content[swap[0]] = content[swap[1]]
    refused("UNKNOWN_FIELD", read_update, answered(content), SHAPES)


def test_an_update_beyond_any_sense_is_refused() -> None:
    huge = {**arrays(), "b": np.full(4, 1.5 * MAX_UPDATE, np.float32)}
    refused("OVERSIZED", read_update, reply(train_message(), Update(huge, 1), "float32"), SHAPES)
    read_update(reply(train_message(), Update(huge, 2), "float32"), SHAPES, most_clients=2)


BAD_REQUESTS: dict[str, tuple[str, Any]] = {
    "no adapter": ("BAD_REQUEST", lambda c: c.pop("adapter")),
    "no prior": ("BAD_REQUEST", lambda c: c.pop("prior")),
    "no config": ("BAD_REQUEST", lambda c: c.pop("config")),
    "no seed": ("BAD_REQUEST", lambda c: c.update(config=ConfigRecord({"server-round": 1}))),
    "round zero": ("BAD_REQUEST", lambda c: c["config"].update({"server-round": 0})),
    "a negative seed": ("BAD_REQUEST", lambda c: c["config"].update({"seed": -1})),
    "a broken round": ("BAD_REQUEST", lambda c: c["config"].update({"server-round": 1.5})),
    "a true round": ("BAD_REQUEST", lambda c: c["config"].update({"server-round": True})),
    "a text for a seed": ("BAD_REQUEST", lambda c: c["config"].update({"seed": "7"})),
    "metrics for an adapter": ("BAD_REQUEST", lambda c: c.update(adapter=MetricRecord({"a": 1}))),
    "a prior of another length": (
        "WRONG_SHAPE",
        lambda c: c.update(prior=pack({"log-popularity": np.zeros(4, np.float32)}, "float32")),
    ),
    "a prior of another name": (
        "WRONG_SHAPE",
        lambda c: c.update(prior=pack({"x": np.zeros(5, np.float32)}, "float32")),
    ),
    "a record more": ("UNKNOWN_FIELD", lambda c: c.update(extra=ConfigRecord({"noise": 0.0}))),
    "a setting more": ("UNKNOWN_FIELD", lambda c: c["config"].update({"noise-multiplier": 0.0})),
    "nothing": ("BAD_REQUEST", lambda c: c.clear()),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_request_that_is_not_as_agreed_is_refused(what: str) -> None:
    code, damage = BAD_REQUESTS[what]
    content = train_content(request(), "float32")
    damage(content)
    refused(code, read_train, train_message(content), SHAPES, ITEMS)


ERRORS = {
    "BUDGET_EXHAUSTED": PrivacyBudgetExhausted(9.0, 8.0),
    "PRIVACY_REFUSED": PrivacyError(SECRET),
    "CLIENT_ERROR": DataError(SECRET),
    "CLIENT_FAILED": ValueError(SECRET),
    "NOT_FINITE": ProtocolError("NOT_FINITE", SECRET),
}


@pytest.mark.parametrize("code", ERRORS)
def test_a_refusal_is_a_fixed_word_and_carries_no_text_of_the_error(code: str) -> None:
    message = refusal(train_message(), ERRORS[code])
    assert message.has_error()
    assert (message.error.code, message.error.reason) == (ERROR_CODE, code)
    assert not message.has_content()
    assert refused(code, read_update, message, SHAPES).code == code


@pytest.mark.parametrize("error", [LedgerCorrupted(SECRET), ConfigError(SECRET), KeyError(SECRET), RuntimeError()])
def test_every_error_has_a_fixed_word(error: Exception) -> None:
    assert refusal_code(error) in CODES


def test_a_protocol_error_cannot_smuggle_a_word_of_its_own() -> None:
    assert refusal_code(ProtocolError(SECRET.upper().replace(" ", "_"), "")) == "CLIENT_FAILED"


@given(
    reason=st.one_of(st.none(), st.text(max_size=40), st.just("ALICE_WATCHED_TITANIC"), st.sampled_from(sorted(CODES)))
)
def test_an_error_reply_is_read_as_a_fixed_word_whatever_it_says(reason: str | None) -> None:
    message = Message(Error(code=7, reason=reason), reply_to=train_message())
    error = refused(None, read_update, message, SHAPES)
    assert error.code == (reason if reason in CODES else "CLIENT_FAILED")
    assert str(error) == "the client answered with an error"


def test_an_array_record_is_read_as_flower_sent_it() -> None:
    record = pack(arrays(), "float16")
    assert isinstance(record, ArrayRecord)
    assert {array.dtype for array in record.values()} == {"float16"}
