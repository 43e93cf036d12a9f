"""When training ends before its last round: no better point of the validation curve for some time.

The curve is that of the consenting panel, so stopping by it costs no privacy; what was planned and not spent stays
unspent. It holds no adapter: the optimiser's slot "best" does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from hushrec.common.config import RunConfig


class StoppedEarly(Exception):
    """Ends Flower's loop; everything was written before."""


@dataclass
class EarlyStopping:
    """The best point of the curve so far.

    Attributes:
        every: rounds between two points.
        patience: points after the best one after which training is over; 0: it never is.
        best_round, best_value: of the best point; -1 and minus infinity before the first.
    """

    every: int
    patience: int
    best_round: int = -1
    best_value: float = float("-inf")

    @classmethod
    def of(cls, config: RunConfig, facts: dict[str, Any]) -> Self:
        """Where a run stands whose checkpoint has these facts."""
        made = cls(config.evaluation.every, config.evaluation.patience)
        if "best" in facts:
            made.best_round, made.best_value = int(facts["best"]["round"]), float(facts["best"]["value"])
        return made

    def improves(self, server_round: int, curve: dict[str, Any]) -> bool:
        """Whether this point is better than every point before; it is the best one from now on then.

        Args:
            curve: of central.curve_point; {} where the round has no point.
        """
        found = [float(value) for name, value in curve.items() if name.startswith("validation_")]
        if not self.patience or not found or found[0] <= self.best_value:
            return False
        self.best_round, self.best_value = server_round, found[0]
        return True

    def over(self, server_round: int) -> bool:
        """Whether `patience` points came after the best one."""
        return bool(self.patience) and server_round - self.best_round >= self.patience * self.every

    def facts(self) -> dict[str, Any]:
        """What the checkpoint keeps of it; nothing where it is off."""
        return {"best": {"round": self.best_round, "value": self.best_value}} if self.best_round >= 0 else {}
