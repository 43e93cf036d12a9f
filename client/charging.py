"""Pay first: before any data is read, the clients of a cohort reserve the round's privacy event in their ledgers.

It decides who may take part and records what they sent. It computes no gradient and no noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hushrec.client.store import Store
from hushrec.common.budget import enforced_claim
from hushrec.common.errors import HushrecError, PrivacyError
from hushrec.common.ledger import Ledger
from hushrec.common.privacy import PrivacyEvent, require_budget
from hushrec.common.settings import PrivacyConfig


@dataclass(frozen=True)
class Receipts:
    """Outcome of a charge.

    Attributes:
        paid: positions (in the cohort) of the clients that may read their data now.
        refused: position -> why not.
        reserved: ledger and hash of its RESERVE, with the names charged there; to be committed.
    """

    paid: tuple[int, ...]
    refused: Mapping[int, HushrecError]
    reserved: tuple[tuple[Ledger, str, tuple[str, ...]], ...]

    def commit(self, replies: Mapping[str, str]) -> None:
        """Record the SHA-256 of every noised reply (client -> hex)."""
        for ledger, receipt, clients in self.reserved:
            ledger.commit(receipt, {client: replies[client] for client in clients if client in replies})


def charge(stores: Sequence[Store], event: PrivacyEvent, privacy: PrivacyConfig, server_round: int) -> Receipts:
    """Reserve `event` for every client whose budget allows it; one fsync per ledger file.

    Returns:
        Who paid. A client whose budget is spent, or that has no ledger, is refused and reads nothing.
    """
    claim = enforced_claim(privacy)
    refused: dict[int, HushrecError] = {}
    by_ledger: dict[int, tuple[Ledger, list[int]]] = {}
    named: set[str] = set()
    for number, store in enumerate(stores):
        if store.ledger is None:
            refused[number] = PrivacyError(f"{store.client} has no ledger; a private round needs one")
            continue
        if store.client in named:
            refused[number] = PrivacyError(f"{store.client} is asked twice in one round")
            continue
        named.add(store.client)
        try:
            require_budget(store.ledger.events(store.client), event, claim)
        except PrivacyError as error:
            refused[number] = error
            continue
        by_ledger.setdefault(id(store.ledger), (store.ledger, []))[1].append(number)
    reserved, paid = [], []
    for ledger, numbers in by_ledger.values():
        clients = tuple(stores[number].client for number in numbers)
        reserved.append((ledger, ledger.reserve(server_round, list(clients), event), clients))
        paid += numbers
    return Receipts(tuple(sorted(paid)), refused, tuple(reserved))
