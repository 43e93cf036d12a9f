"""Everything that crosses the network between server and client, and nothing else.

Down: the adapter, the popularity prior, a round number and a public seed. Up: the fields of ALLOWED, each marked
`noised` (charged to the ledger) or `public` (a constant that depends on no data). Anything else is refused on both
sides. This file never trains and never counts epsilon.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from hushrec.common.errors import HushrecError, PrivacyBudgetExhausted, PrivacyError, ProtocolError

Arrays = dict[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]
Wire = Literal["float16", "float32"]
Release = Literal["popularity", "statistics"]
RELEASES: tuple[Release, ...] = get_args(Release)
Field = Literal["update", "counts", "statistics"]
_NPY_MAGIC = b"\x93NUMPY"
NUMPY = "numpy.ndarray"  # Flower's name for arrays that travel as .npy

ALLOWED: Mapping[str, str] = MappingProxyType(
    {
        "update": "noised",  # after - before of every trained tensor, clipped and noised when privacy is on
        "statistics": "noised",  # the co-occurrence contribution, of norm 1 and noised when privacy is on
        "counts": "noised",  # the popularity contribution, clipped and noised when privacy is on
        "num-examples": "public",  # always 1: the true number would be a release
        "num-clients": "public",  # how many clients' updates the sum holds
        "ledger-head": "public",  # of a device: signed hash over what it has released; see common/signed_head.py
    }
)
CODES = frozenset(
    [
        "APP_CHANGED",
        "BAD_COUNT",
        "BAD_REQUEST",
        "BUDGET_EXHAUSTED",
        "CLIENT_ERROR",
        "CLIENT_FAILED",
        "LEDGER_CHANGED",
        "NOT_FINITE",
        "NOT_NOW",
        "NOT_PINNED",
        "OVERSIZED",
        "PRIVACY_REFUSED",
        "REPLAYED",
        "UNKNOWN_FIELD",
        "UPDATE_TOO_LARGE",
        "WRONG_SHAPE",
        "WRONG_TYPE",
    ]
)  # every word a refusal may carry
ERROR_CODE = 2  # Flower's error code of a reply; the reason is one fixed word, never exception text
MAX_UPDATE = 1e4  # a larger entry is no update but damage or an attack


@dataclass(frozen=True)
class TrainRequest:
    """What a client is asked.

    Attributes:
        adapter: trained tensors, float32.
        log_popularity: float32 (items,), the released prior; zeros where none was released.
        server_round: from 1.
        seed: public randomness of the round (negatives, windows).
    """

    adapter: Arrays
    log_popularity: NDArray[np.float32]
    server_round: int
    seed: int


@dataclass(frozen=True)
class Update:
    """One reply: the sum of `clients` updates (1 from a device, 0 where another reply of the cohort carries it)."""

    arrays: Arrays
    clients: int


def pack(arrays: Mapping[str, NDArray[np.float32]], wire: Wire) -> ArrayRecord:
    """Arrays as they travel, in 16 or 32 bits.

    Raises:
        ProtocolError: a value does not fit the wire format (UPDATE_TOO_LARGE) or is not finite (NOT_FINITE).
    """
    record: dict[str, Array] = {}
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ProtocolError("NOT_FINITE", f"{name} holds a NaN or infinite value")
        if np.abs(value).max(initial=0.0) > (6.5e4 if wire == "float16" else 3e38):
            raise ProtocolError("UPDATE_TOO_LARGE", f"{name} does not fit {wire}; set federation.wire = 'float32'")
        sent = _as_type(np.ascontiguousarray(value), wire)
        data = _npy_header(wire, sent.shape) + sent.tobytes()
        record[name] = Array(dtype=wire, shape=sent.shape, stype=NUMPY, data=data)
    return ArrayRecord(record)


def unpack(record: ArrayRecord, shapes: Shapes) -> Arrays:
    """Arrays of a record as float32.

    Raises:
        ProtocolError: names or shapes differ from `shapes` (WRONG_SHAPE), a type that is not float (WRONG_TYPE), a
            payload whose size is not its shape's (OVERSIZED), a NaN or infinite value (NOT_FINITE).
    """
    if set(record) != set(shapes):
        odd = sorted(set(record) ^ set(shapes))[:3]
        raise ProtocolError("WRONG_SHAPE", f"tensors differ from the adapter's: {', '.join(odd)}")
    arrays: Arrays = {}
    for name, shape in shapes.items():
        array = record[name]
        if array.dtype not in ("float16", "float32") or array.stype != NUMPY:
            raise ProtocolError("WRONG_TYPE", f"{name} has type {array.dtype}, expected float16 or float32")
        if tuple(array.shape) != tuple(shape):
            raise ProtocolError("WRONG_SHAPE", f"{name} has shape {tuple(array.shape)}, expected {tuple(shape)}")
        value = _decode(name, array.data, array.dtype, tuple(shape))
        if not np.isfinite(value).all():
            raise ProtocolError("NOT_FINITE", f"{name} holds a NaN or infinite value")
        arrays[name] = _as_type(value, "float32")
    return arrays


def _as_type(value: NDArray[np.floating], wire: Wire) -> NDArray[np.floating]:
    """A copy in that type. Large ones by torch, which rounds as numpy does, twenty times faster to and from 16 bits."""
    if value.size < _LARGE:
        return value.astype(wire)
    import torch  # a device's launcher reads no arrays and does without it

    writable = value if value.flags.writeable else value.copy()  # torch warns of memory that it must not change
    made: NDArray[np.floating] = torch.from_numpy(writable).to(getattr(torch, wire), copy=True).numpy()
    return made


_LARGE = 10_000  # numbers; torch takes some microseconds to begin


@lru_cache(maxsize=256)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The one .npy header that an array of this type and shape has: what `numpy.save` writes before the numbers."""
    stream = io.BytesIO()
    np.save(stream, np.empty(shape, dtype=np.dtype(dtype)), allow_pickle=False)
    return stream.getvalue()[: len(stream.getvalue()) - math.prod(shape) * np.dtype(dtype).itemsize]


def _decode(name: str, data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """The numbers of a .npy payload whose header is known beforehand; nothing in the payload is interpreted.

    `numpy.load` would parse the header as Python source: slow, and a parser fed with foreign bytes.
    """
    header = _npy_header(dtype, shape)
    expected = len(header) + math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) > expected:
        raise ProtocolError("OVERSIZED", f"{name} carries {len(data):,} bytes, expected {expected:,}")
    if not data.startswith(_NPY_MAGIC):
        raise ProtocolError("WRONG_TYPE", f"{name} cannot be decoded")
    if len(data) < expected or data[: len(header)] != header:
        raise ProtocolError("WRONG_SHAPE", f"{name} is not what its header says")
    return np.frombuffer(data, dtype=np.dtype(dtype), offset=len(header)).reshape(shape)


def train_content(request: TrainRequest, wire: Wire) -> RecordDict:
    """The content of a round's train messages; one object serves all of them."""
    return RecordDict(
        {
            "adapter": pack(request.adapter, wire),
            "prior": pack({"log-popularity": request.log_popularity}, wire),
            "config": ConfigRecord({"server-round": request.server_round, "seed": request.seed}),
        }
    )


def read_train(message: Message, shapes: Shapes, items: int) -> TrainRequest:
    """The request in a train message.

    Raises:
        ProtocolError: anything missing, of the wrong shape or type (codes as in `unpack`, or BAD_REQUEST).
    """
    content = message.content
    try:
        adapter, prior, config = content["adapter"], content["prior"], content["config"]
        server_round, seed = config["server-round"], config["seed"]
    except KeyError as error:
        raise ProtocolError("BAD_REQUEST", f"the train message lacks {error}") from error
    if len(content) > 3 or len(config) > 2:
        raise ProtocolError("UNKNOWN_FIELD", "the train message holds more than adapter, prior and config")
    if not isinstance(adapter, ArrayRecord) or not isinstance(prior, ArrayRecord):
        raise ProtocolError("BAD_REQUEST", "adapter and prior must be array records")
    if type(server_round) is not int or type(seed) is not int or server_round < 1 or seed < 0:
        raise ProtocolError("BAD_REQUEST", "server-round and seed must be whole numbers, from 1 and from 0")
    log_popularity = unpack(prior, {"log-popularity": (items,)})["log-popularity"]
    return TrainRequest(unpack(adapter, shapes), log_popularity, server_round, seed)


def query_content(release: Release, log_popularity: NDArray[np.float32] | None = None) -> RecordDict:
    """The content of a release's query messages; statistics are taken about the released popularity."""
    content = RecordDict({"config": ConfigRecord({"release": release})})
    if log_popularity is not None:
        content["prior"] = pack({"log-popularity": log_popularity}, "float32")
    return content


def read_query(message: Message, items: int) -> tuple[Release, NDArray[np.float32]]:
    """Which release is asked for, and the prior (zeros where none was sent).

    Raises:
        ProtocolError: an unknown release or field, or a prior of another catalogue.
    """
    content = message.content
    config, prior = content.get("config"), content.get("prior")
    if not isinstance(config, ConfigRecord) or set(config) != {"release"} or not set(content) <= {"config", "prior"}:
        raise ProtocolError("BAD_REQUEST", "a query message holds config with release, and at most a prior")
    release = next((known for known in RELEASES if known == config["release"]), None)
    if release is None:
        raise ProtocolError("BAD_REQUEST", f"unknown release {config['release']!r}")
    if prior is None:
        return release, np.zeros(items, dtype=np.float32)
    if not isinstance(prior, ArrayRecord):
        raise ProtocolError("BAD_REQUEST", "the prior must be an array record")
    shapes = {"log-popularity": (items,)}
    return release, unpack(prior, shapes)["log-popularity"]


def reply(message: Message, update: Update, wire: Wire, field: Field = "update") -> Message:
    """The answer to a train or query message; holds the fields of ALLOWED and no other."""
    content = RecordDict(
        {
            field: pack(update.arrays, wire),
            "metrics": MetricRecord({"num-examples": 1, "num-clients": update.clients}),
        }
    )
    return Message(content, reply_to=message)


def refusal(message: Message, error: BaseException) -> Message:
    """An error reply: a fixed word, since exception text could carry data."""
    return Message(Error(code=ERROR_CODE, reason=refusal_code(error)), reply_to=message)


def refusal_code(error: BaseException) -> str:
    """The fixed word for an error."""
    if isinstance(error, ProtocolError):
        return error.code if error.code in CODES else "CLIENT_FAILED"
    if isinstance(error, PrivacyBudgetExhausted):
        return "BUDGET_EXHAUSTED"
    if isinstance(error, PrivacyError):
        return "PRIVACY_REFUSED"
    return "CLIENT_ERROR" if isinstance(error, HushrecError) else "CLIENT_FAILED"


def read_update(message: Message, shapes: Shapes, most_clients: int = 1, field: Field = "update") -> Update:
    """The update in a reply, checked before anything is added up.

    Args:
        most_clients: the largest number of clients one reply may speak for.
    Raises:
        ProtocolError: an error reply (its code), an unknown field (UNKNOWN_FIELD), a wrong count (BAD_COUNT), or
            arrays that `unpack` refuses; OVERSIZED where an entry is beyond MAX_UPDATE per client.
    """
    if message.has_error():
        reason = message.error.reason
        raise ProtocolError(reason if reason in CODES else "CLIENT_FAILED", "the client answered with an error")
    content = message.content
    if set(content) != {field, "metrics"} or field not in ALLOWED:
        raise ProtocolError("UNKNOWN_FIELD", f"a reply holds {sorted(content)}, expected [{field!r}, 'metrics']")
    arrays, metrics = content[field], content["metrics"]
    if not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord):
        raise ProtocolError("UNKNOWN_FIELD", "a reply must hold one array record and one metric record")
    if set(metrics) != {"num-examples", "num-clients"}:
        raise ProtocolError("UNKNOWN_FIELD", f"metrics {sorted(metrics)} are not the allowed ones")
    clients = metrics["num-clients"]
    least = 0 if field == "update" else 1  # counts are never added up on the way
    if type(clients) is not int or not least <= clients <= most_clients or metrics["num-examples"] != 1:
        raise ProtocolError("BAD_COUNT", f"a reply speaks for {clients!r} clients, at most {most_clients} were asked")
    if clients == 0:
        if len(arrays):
            raise ProtocolError("BAD_COUNT", "a reply for no client carries arrays")
        return Update({}, 0)
    unpacked = unpack(arrays, shapes)
    largest = max((float(np.abs(value).max(initial=0.0)) for value in unpacked.values()), default=0.0)
    if field == "update" and largest > MAX_UPDATE * clients:
        raise ProtocolError("OVERSIZED", f"an entry of the update is {largest:.3g}")
    return Update(unpacked, clients)


def payload_bytes(record: ArrayRecord) -> int:
    """Bytes of the arrays as they travel, array headers included."""
    return sum(len(array.data) for array in record.values())


def reply_sha256(record: ArrayRecord) -> str:
    """Hash of a reply's arrays, for the ledger's COMMIT."""
    digest = hashlib.sha256()
    for name in sorted(record):
        digest.update(name.encode())
        digest.update(record[name].data)
    return digest.hexdigest()


def total_bytes(records: Sequence[ArrayRecord]) -> int:
    """Sum of `payload_bytes`."""
    return sum(payload_bytes(record) for record in records)
