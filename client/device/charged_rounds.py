"""Whether a device's ledger is as new as its database: an older copy would give back budget that is spent.

It sees a ledger that was restored alone; where the whole folder was, only the server's mirror can.
"""

from __future__ import annotations

from collections.abc import Sequence

from hushrec.common.budget import training_event
from hushrec.common.config import RunConfig
from hushrec.common.errors import LedgerCorrupted
from hushrec.common.privacy_event import PrivacyEvent


def require_newest(events: Sequence[PrivacyEvent], answered: int, config: RunConfig) -> None:
    """Refuse a ledger that lacks rounds.

    Args:
        events: everything that the ledger charged to this device.
        answered: training rounds that the device's database has.
    Raises:
        LedgerCorrupted: fewer were charged than were answered.
    """
    steps = sum(event.steps for event in events if event.kind == "training")
    if (charged := steps // training_event(config).steps) < answered:
        raise LedgerCorrupted(
            f"the ledger holds {charged} rounds, but this device answered {answered}: it is an older copy"
        )
