"""The probes of an audit: does the code that trains do what the privacy claim assumes?

They run the run's own client and server code, with its privacy constants, on a few generated units. They measure no
attack (attack.py) and read no ledger of the run (ledgers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hushrec.common.budget import is_private
from hushrec.common.config import RunConfig
from hushrec.common.errors import PrivacyError, ProtocolError
from hushrec.common.run_ledger import close_ledgers
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.egress import EGRESS, probe_egress
from hushrec.simulations.audit.ledger_probe import LEDGER_ORDER, probe_ledger
from hushrec.simulations.audit.noise_probe import NOISE, probe_noise
from hushrec.simulations.audit.probe_federation import ProbeFederation
from hushrec.simulations.audit.probe_units import fit, releases
from hushrec.simulations.audit.sampler_probe import SAMPLER, probe_sampler
from hushrec.simulations.audit.sensitivity_probe import SENSITIVITY, WEIGHTS, probe_sensitivity, probe_weights

Probe = Callable[[ProbeFederation], Check]
PROBES: dict[str, tuple[str, Probe]] = {
    SENSITIVITY: ("one unit moves a noised sum by at most the clipping norm", probe_sensitivity),
    NOISE: ("every release carries the promised noise", probe_noise),
    SAMPLER: ("units enter a round independently, with the sample rate", probe_sampler),
    LEDGER_ORDER: ("data are read only after they are paid for", probe_ledger),
    EGRESS: ("nothing leaves a client that is not paid for or constant", probe_egress),
    WEIGHTS: ("a reply weighs the same whatever its client's data", probe_weights),
}


def run_probes(config: RunConfig, *, seed: int = 0) -> list[Check]:
    """One check per probe of PROBES, in order.

    The ledgers that this process has open are closed. The random probes raise a false alarm in less than one audit of
    a million.

    Args:
        config: of the audited run, its noise solved (`open_run`).
        seed: draws the generated units; the noise is the operating system's all the same.
    Raises:
        ConfigError: the run's model cannot be loaded.
    """
    reason = ""
    if not is_private(config):
        reason = 'the run makes no privacy claim (privacy.mechanism = "none")'
    elif not releases(config):
        reason = "the run releases nothing: no round, no popularity and no statistics are planned"
    if reason:
        return [Check(name, "not tested", claim, reason) for name, (claim, _) in PROBES.items()]
    fitted, smaller = fit(config)
    close_ledgers()
    with TemporaryDirectory(prefix="hushrec-audit-") as folder:
        federation = ProbeFederation(fitted, Path(folder), seed)
        checks = []
        for name, (claim, probe) in PROBES.items():
            try:
                check = probe(federation)
            except (PrivacyError, ProtocolError) as error:  # clean code answers a probe
                check = Check(name, "VIOLATED", claim, str(error))
            finally:
                federation.close()
            if smaller and check.verdict != "not tested":
                check = replace(check, figures={**check.figures, "exchanged for the probe": smaller})
            checks.append(check)
    return checks
