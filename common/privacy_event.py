"""One noised release as an immutable value, and how releases add up. It computes no epsilon.

Model: the events of google's dp_accounting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from hushrec.common.accountants import History
from hushrec.common.errors import PrivacyError

Kind = Literal["training", "popularity", "statistics", "metrics"]


@dataclass(frozen=True)
class PrivacyEvent:
    """One release of `steps` Poisson-sampled, clipped and noised sums.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm, > 0 and finite.
        sample_rate: probability with which each row enters a step, in (0, 1].
        steps: number of noised sums, >= 1; an empty batch counts.
        kind: a label for people; it changes no number.
    Raises:
        PrivacyError: a field is out of range or of another type.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    kind: Kind = "training"

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "sample_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise PrivacyError(f"expected a number for {name}, got {value!r}")
            object.__setattr__(self, name, _as_float(name, value))
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise PrivacyError(f"expected noise_multiplier > 0 and finite, got {self.noise_multiplier}")
        if not 0 < self.sample_rate <= 1:
            raise PrivacyError(f"expected sample_rate in (0, 1], got {self.sample_rate}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps < 2**53:
            raise PrivacyError(f"expected a whole number of steps >= 1, got {self.steps!r}")
        if self.kind not in get_args(Kind):
            raise PrivacyError(f"unknown kind of release {self.kind!r}; known: {', '.join(get_args(Kind))}")

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; `from_json` gives back an equal event."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> PrivacyEvent:
        """Read an event; unknown or missing fields are refused.

        Raises:
            PrivacyError: not a dict with exactly the four fields, or a field is out of range.
        """
        fields = {"noise_multiplier", "sample_rate", "steps", "kind"}
        if not isinstance(value, dict) or set(value) != fields:
            raise PrivacyError(f"expected a privacy event with the fields {', '.join(sorted(fields))}")
        return cls(**value)


def merge(events: Iterable[PrivacyEvent]) -> History:
    """Add up the steps of equal releases; order and kind change no epsilon.

    Returns:
        (noise_multiplier, sample_rate, steps) triples, sorted.
    """
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sample_rate)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple((sigma, q, n) for (sigma, q), n in sorted(steps.items()))


def _as_float(name: str, value: float) -> float:
    """A float, also from an int too large for one."""
    try:
        return float(value)
    except OverflowError as error:
        raise PrivacyError(f"{name} is too large") from error
