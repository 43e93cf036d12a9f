"""One answer of an audit. It measures nothing; the other files of this folder do, and audit/command.py shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "VIOLATED", "not tested"]


@dataclass(frozen=True)
class Check:
    """What must hold, and what was found.

    Attributes:
        name: one or two words, unique within an audit.
        verdict: "not tested" where there is nothing to test in this run, never because a test failed to run.
        claim: what must hold, one sentence.
        measured: what was found, one sentence with its figures.
        figures: the same as JSON values, for audit.json.
    """

    name: str
    verdict: Verdict
    claim: str
    measured: str
    figures: Mapping[str, Any] = field(default_factory=dict)
