"""What one privacy unit can move, measured on the real code: sums with and without it, noise turned down to nothing.

It says nothing of the noise (noise_probe.py) nor of who pays (ledger_probe.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hushrec.common.protocol import Field
from hushrec.common.workspace import torch_dtype
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.probe_federation import ProbeFederation, Vector
from hushrec.simulations.audit.probe_units import Holdings, removals

# Of the clipping norm. In 32 bits sums are a hundred times closer. In 16 bits a row's gradient changes in its third
# digit with the rows that it is computed beside, which adds up to 1e-5 or so to what one of them moves.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-4}
SAME = 0.05  # of C or of a share: two weights that differ by less are meant to be equal; 16-bit layers differ by 0.002
SENSITIVITY = "sensitivity"
WEIGHTS = "weights"


def probe_sensitivity(federation: ProbeFederation) -> Check:
    """Remove every unit in turn, and every client's last one; then ask for a release of nothing at all."""
    figures: dict[str, float] = {}
    problems: list[str] = []
    tolerance = TOLERANCE[str(torch_dtype(federation.config.model)).removeprefix("torch.")]
    for field in federation.fields:
        largest = _influence(federation, field)
        figures[f"{field}: largest influence / C"] = largest
        if not largest <= 1 + tolerance:
            problems.append(f"one unit moves the {field} sum by {largest:.4g} C")
        if largest < 0.99:
            problems.append(f"no unit moves the {field} sum by more than {largest:.2g} C, so clipping was not seen")
        silent = _share_without_noise(federation, field)
        figures[f"{field}: numbers without noise where no unit takes part"] = silent
        if silent > 0.01:
            problems.append(f"{silent:.0%} of the {field} numbers carry no noise where no unit takes part")
    shown, unit = max(value for name, value in figures.items() if "influence" in name), federation.config.privacy.unit
    removed = sum(map(len, federation.holdings.values()))
    return Check(
        SENSITIVITY,
        "VIOLATED" if problems else "holds",
        f"adding or removing one {unit} moves what is noised by at most the clipping norm C (1 + {tolerance:g}), and a "
        "sum over nobody is noised and sent like any other",
        "; ".join(problems) or f"largest influence {shown:.6f} C over {removed} removed units",
        figures
        | {"tolerance": tolerance, "max_grad_norm": federation.max_grad_norm, "gradients": gradients_by(federation)},
    )


def gradients_by(federation: ProbeFederation) -> str:
    """Which of the two ways to a gradient per row the run's model takes."""
    return "Opacus hooks" if federation.model.recommender.encoder.stack is None else "layers written out"


def probe_weights(federation: ProbeFederation) -> Check:
    """A sum over many units is the sum of the sums over each, and each unit that is clipped weighs C, none more."""
    config = federation.quiet(privacy__max_grad_norm=federation.max_grad_norm)
    problems: list[str] = []
    figures: dict[str, float] = {}
    for field in federation.fields:
        whole = _joined(federation.release(field, federation.holdings, config))
        parts, weights = np.zeros_like(whole), []
        for alone in _alone(federation):
            part = _joined(federation.release(field, alone, config))
            parts += part
            weights.append(float(np.linalg.norm(part)))
        gap = float(np.linalg.norm(whole - parts))
        figures[f"{field}: distance from the sum of its units / C"] = gap
        figures[f"{field}: lightest unit / C"], figures[f"{field}: heaviest unit / C"] = min(weights), max(weights)
        if gap > SAME:
            problems.append(f"the {field} sum of clients with many units is {gap:.3g} C away from the sum of its units")
        if max(weights) - min(weights) > SAME:
            problems.append(f"units weigh between {min(weights):.4g} C and {max(weights):.4g} C in the {field} sum")
    if "update" in federation.fields and not federation.central:
        two = dict(list(federation.holdings.items())[:2])
        share = federation.weight_of_first(two, federation.variant(federation__wire="float32"))
        figures["weight of the larger of two clients in the mean"] = share
        if abs(share - 0.5) > SAME:
            problems.append(f"of two replies the one with more units has weight {share:.4g} in the server's mean")
    heaviest = max(value for name, value in figures.items() if "heaviest" in name)
    return Check(
        WEIGHTS,
        "VIOLATED" if problems else "holds",
        "a reply weighs the same whatever its client's number of units or of interactions: the sum's divisor and the "
        "weight in the mean are public constants",
        "; ".join(problems) or f"each unit weighs {heaviest:.6f} C, alone or among others; replies weigh the same",
        figures,
    )


def _influence(federation: ProbeFederation, field: Field) -> float:
    """Largest distance of a release from the one without a unit, over all that the clients send, in units of C."""
    config = federation.quiet(privacy__max_grad_norm=federation.max_grad_norm)
    whole = federation.release(field, federation.holdings, config)
    largest = 0.0
    for client, rest in removals(federation.config, federation.holdings):
        without = federation.release(field, rest, config)
        largest = max(largest, _distance(whole, without))
        if federation.central:  # a client that does not keep to the protocol is clipped all the same
            louder = federation.release(field, federation.holdings, config, loud=client)
            largest = max(largest, _distance(louder, without))
    return largest


def _alone(federation: ProbeFederation) -> Iterator[Holdings]:
    """Every unit on its own."""
    empty: Holdings = {} if federation.central else {client: {} for client in federation.holdings}
    for client, units in federation.holdings.items():
        for number, items in units.items():
            if len(items) > 1:  # a single item has nothing to predict
                yield {**empty, client: {number: items}}


def _share_without_noise(federation: ProbeFederation, field: Field) -> float:
    config = federation.variant(federation__wire="float32", privacy__sample_rate=1.0)
    values = np.concatenate(list(federation.release(field, federation.empty, config).values()))
    return float(np.mean(values == 0.0))


def _joined(released: dict[str, Vector]) -> Vector:
    return np.concatenate([released[name] for name in sorted(released)])


def _distance(one: dict[str, Vector], other: dict[str, Vector]) -> float:
    return float(np.sqrt(sum(float(np.square(one[name] - other[name]).sum()) for name in one)))
