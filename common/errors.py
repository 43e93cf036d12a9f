"""Every error hushrec raises on purpose.

HushrecError
├── ConfigError              an option is unknown, missing, mistyped or out of range
├── DataError                a data file cannot be read as asked
├── ProtocolError            a message from the other side is not what the protocol allows
├── BundleError              a bundle or checkpoint is damaged or does not fit
├── Interrupted              the user stopped it; its text says how to go on
└── PrivacyError             continuing would break a privacy claim
    ├── PrivacyBudgetExhausted
    └── LedgerCorrupted
"""

from __future__ import annotations


class HushrecError(Exception):
    """Base of all errors below; its text names the thing and the remedy."""


class ConfigError(HushrecError):
    """An option is unknown, missing, mistyped or out of range."""


class DataError(HushrecError):
    """A data file cannot be read as asked."""


class ProtocolError(HushrecError):
    """A message does not follow the protocol.

    Attributes:
        code: a fixed upper-case word; the only part that may leave a device.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BundleError(HushrecError):
    """A bundle or checkpoint is damaged, or belongs to another model or catalogue."""


class Interrupted(HushrecError):
    """The user stopped it with Ctrl-C; what was done is kept, and the text says how to go on."""


class PrivacyError(HushrecError):
    """Continuing would break a privacy claim, so nothing was released."""


class PrivacyBudgetExhausted(PrivacyError):
    """The next event would pass the budget.

    Attributes:
        epsilon_after: what would be spent after the refused event.
        target_epsilon: the budget.
    """

    def __init__(self, epsilon_after: float, target_epsilon: float) -> None:
        super().__init__(
            f"the next step would spend epsilon {epsilon_after:.3f} of a budget of {target_epsilon:g}; "
            "nothing was read or sent. The budget is pinned in the ledger: stop here, or start a new run with "
            "fewer rounds or a larger privacy.noise-multiplier."
        )
        self.epsilon_after = epsilon_after
        self.target_epsilon = target_epsilon


class LedgerCorrupted(PrivacyError):
    """The ledger's chain is broken: an entry was edited, removed or reordered."""
