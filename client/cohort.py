"""Handle the messages of one or many clients: read, pay, compute, record, reply.

The ClientApp is the cohort of one; an in-process grid hands over a round's messages at once. Whatever goes wrong with
one client becomes that client's refusal, and the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, Context, Message

from hushrec.client.charging import Receipts, charge
from hushrec.client.gradients import RoundTexts
from hushrec.client.popularity import popularity_counts
from hushrec.client.statistics import co_occurrence
from hushrec.client.store import Store, in_round, open_model, open_store
from hushrec.client.training import train_cohort
from hushrec.common.budget import is_private, noise_on_server, popularity_events, statistics_events, training_event
from hushrec.common.config import RunConfig
from hushrec.common.continual_split import model_in_round
from hushrec.common.errors import HushrecError, PrivacyError, ProtocolError
from hushrec.common.privacy import PrivacyEvent
from hushrec.common.protocol import Field, TrainRequest, Update, read_query, read_train, refusal, reply, reply_sha256
from hushrec.common.workspace import Model

log = logging.getLogger("hushrec.client")  # stays on the device
COHORT = 64  # private clients computed together; bounds memory, and more is not faster
RELEASE_ROUND = 0  # releases stand before round 1 in the ledger


@dataclass
class _Member:
    """One client of the cohort, from message to answer."""

    message: Message
    store: Store | None = None
    answer: Message | None = None


Handler = Callable[[Sequence[Message], Sequence[Context]], list[Message]]


def answer_alone(handler: Handler, message: Message, context: Context) -> Message:
    """The cohort of one, as on a device: whatever fails leaves as a fixed word, never as exception text."""
    try:
        return handler([message], [context])[0]
    except Exception as error:
        log.exception("this request failed")
        return refusal(message, error)


def answer_train(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
    """One answer per train message, in order. All messages of a cohort must carry the same request."""
    config = RunConfig.from_flat(_scalars(contexts[0]))
    model = open_model(config, contexts[0].node_config)
    members = _open(messages, contexts, config)
    request = _common_request(members, model)
    if request is None:
        return _answers(members)
    model = model_in_round(model, config, request.server_round)
    asked, texts = request, RoundTexts(model, request.seed)

    def compute(stores: Sequence[Store]) -> list[Update]:
        return train_cohort(model, asked, [in_round(one, config, asked.server_round) for one in stores], config, texts)

    event = training_event(config) if _pays(config) else None
    _work(members, compute, event, request.server_round, config)
    return _answers(members)


def answer_query(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
    """One contribution to the asked release per query message, in order."""
    config = RunConfig.from_flat(_scalars(contexts[0]))
    model = open_model(config, contexts[0].node_config)
    items = len(model.prefix)
    try:
        # In process all messages of a release share one content, which is decoded once.
        asked = [read_query(one, items) for one in {id(message.content): message for message in messages}.values()]
        release, log_popularity = asked[0]
        if any(other != release for other, _ in asked[1:]):
            raise ProtocolError("BAD_REQUEST", "the messages of a cohort ask for different releases")
    except ProtocolError as error:
        return [refusal(message, error) for message in messages]
    members = _open(messages, contexts, config)

    def compute(stores: Sequence[Store]) -> list[Update]:
        stores = [in_round(store, config, RELEASE_ROUND) for store in stores]
        if release == "popularity":
            return popularity_counts(stores, items, config.privacy)
        return co_occurrence(model, log_popularity, stores, config)

    event = None
    if _pays(config):
        events = popularity_events(config.privacy) if release == "popularity" else statistics_events(config)
        if not events:
            return [refusal(message, PrivacyError(f"no {release} release is planned")) for message in messages]
        event = events[0]
    _work(members, compute, event, RELEASE_ROUND, config, "counts" if release == "popularity" else "statistics")
    return _answers(members)


def _pays(config: RunConfig) -> bool:
    """Whether the clients add the noise, and so pay for it."""
    return is_private(config) and not noise_on_server(config.privacy)


def _scalars(context: Context) -> dict[str, str | int | float | bool]:
    return {key: value for key, value in context.run_config.items() if not isinstance(value, bytes)}


def _open(messages: Sequence[Message], contexts: Sequence[Context], config: RunConfig) -> list[_Member]:
    members = []
    for message, context in zip(messages, contexts, strict=True):
        member = _Member(message)
        try:
            member.store = open_store(config, context.node_config)
        except Exception as error:  # whatever it is, its text must not leave as Flower's error reply
            member.answer = _refused(message, error)
        members.append(member)
    return members


def _common_request(members: Sequence[_Member], model: Model) -> TrainRequest | None:
    """The request of the first readable message; a message that asks for another round is refused."""
    found: TrainRequest | None = None
    # In process all messages of a round share one content, which is decoded once.
    decoded: dict[int, TrainRequest] = {}
    for member in members:
        if member.answer is not None:
            continue
        try:
            key = id(member.message.content.get("adapter"))
            if key not in decoded:
                decoded[key] = read_train(member.message, model.shapes, len(model.prefix))
            request = decoded[key]
            if found is not None and (request.server_round, request.seed) != (found.server_round, found.seed):
                raise ProtocolError("BAD_REQUEST", "the messages of a cohort ask for different rounds")
            found = found or request
        except Exception as error:  # as above
            member.answer = _refused(member.message, error)
    return found


def _work(
    members: Sequence[_Member],
    compute: Callable[[Sequence[Store]], list[Update]],
    event: PrivacyEvent | None,
    server_round: int,
    config: RunConfig,
    field: Field = "update",
) -> None:
    """Charge, compute and answer; every failure after the charge stays charged."""
    working = [member for member in members if member.answer is None]
    receipts = Receipts(tuple(range(len(working))), {}, ())
    if event is not None:
        receipts = charge([_store(member) for member in working], event, config.privacy, server_round)
        for number, error in receipts.refused.items():
            working[number].answer = _refused(working[number].message, error)
    paid = [working[number] for number in receipts.paid]
    if not paid:
        return
    hashes: dict[str, str] = {}
    # Each private client has a noised sum of its own in memory until its reply is made; an open cohort has one for all.
    size = COHORT if is_private(config) else len(paid)
    for start in range(0, len(paid), size):
        part = paid[start : start + size]
        for member, update in zip(part, _each(compute, [_store(member) for member in part]), strict=True):
            if (digest := _answer(member, update, field, config)) is not None:
                hashes[_store(member).client] = digest
    receipts.commit(hashes)


def _answer(member: _Member, update: Update | Exception, field: Field, config: RunConfig) -> str | None:
    """Give the member its reply, and return the reply's SHA-256; None where it became a refusal."""
    if isinstance(update, Exception):
        member.answer = _refused(member.message, update)
        return None
    try:
        # Counts pass 65,504, the largest float16, on large data; they travel once, so 32 bits cost little.
        answer = reply(member.message, update, config.federation.wire if field == "update" else "float32", field)
    except ProtocolError as error:
        member.answer = _refused(member.message, error)
        return None
    member.answer = answer
    record = answer.content[field]
    assert isinstance(record, ArrayRecord)
    return reply_sha256(record)


def _each(compute: Callable[[Sequence[Store]], list[Update]], stores: Sequence[Store]) -> list[Update | Exception]:
    """The updates; where the cohort fails as a whole, each client alone, so that one failure stays with its client."""
    try:
        return list(compute(stores))
    except Exception as error:
        if len(stores) == 1:
            return [error]
    return [update for store in stores for update in _each(compute, [store])]


def _refused(message: Message, error: Exception) -> Message:
    """The refusal that is sent; of an error nobody planned for, the device's own log keeps the rest."""
    if not isinstance(error, HushrecError):
        log.error("a client failed", exc_info=error)
    return refusal(message, error)


def _store(member: _Member) -> Store:
    assert member.store is not None
    return member.store


def _answers(members: Sequence[_Member]) -> list[Message]:
    answers = []
    for member in members:
        assert member.answer is not None
        answers.append(member.answer)
    return answers
