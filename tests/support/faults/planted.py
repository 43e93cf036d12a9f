"""Every planted fault: the probe that has to find it, and the claims under which it is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.faults import egress, ledger, noise, sampling, sensitivity

Plant = Callable[[pytest.MonkeyPatch], None]
C1: dict[str, Any] = {"privacy__noise_multiplier": 2.0, "privacy__sample_rate": 0.5}
C2: dict[str, Any] = {**C1, "privacy__unit": "user", "federation__shape": "silos", "privacy__denominator": 10.0}
C3: dict[str, Any] = {
    **C1,
    "privacy__mechanism": "central",
    "privacy__unit": "user",
    "privacy__denominator": 10.0,
    "federation__clients_per_round": 0,
}
RELEASE = {"privacy__popularity_noise_multiplier": 3.0}

EVERYWHERE = {"C1": C1, "C2": C2, "C3": C3}
ON_CLIENTS = {"C1": C1, "C2": C2}
SOME = {"C2": C2, "C3": C3}
FAULTS: list[tuple[str, Plant, dict[str, dict[str, Any]]]] = [
    ("noise", noise.noise_dropped, EVERYWHERE),
    (
        "noise",
        noise.noise_dropped,
        {name: {**claim, **RELEASE, "federation__rounds": 0} for name, claim in SOME.items()},
    ),
    ("noise", noise.noise_reused, SOME),
    ("noise", noise.noise_of_a_seed, {"C1": C1, "C3": C3}),
    ("noise", noise.noise_of_one_generator, SOME),
    ("noise", noise.noise_half_as_large, SOME),
    ("noise", noise.noise_twice_as_large, {"C1": C1}),
    ("noise", noise.noise_without_tails, SOME),
    ("noise", noise.half_of_the_noise_used_twice, {"C1": C1}),
    ("noise", noise.noise_repeated_within_a_release, EVERYWHERE),
    ("noise", noise.noise_mirrored, EVERYWHERE),
    ("noise", noise.noise_from_one_number_to_the_next, EVERYWHERE),
    ("noise", noise.one_draw_for_every_tensor, {"C3": C3}),
    ("noise", noise.noise_in_the_first_step_only, {"C1": {**C1, "train__local_steps": 3}}),
    ("sensitivity", sensitivity.clipped_by_tensor, EVERYWHERE),
    ("sensitivity", sensitivity.not_clipped, EVERYWHERE),
    ("sensitivity", sensitivity.clipped_by_the_clients_alone, {"C3": C3}),
    ("sensitivity", sensitivity.robust_rule, {"C3": C3}),
    ("sensitivity", sensitivity.flattened_candidates, ON_CLIENTS),
    ("sensitivity", sensitivity.in_batch_negatives, SOME),
    ("sensitivity", sensitivity.mask_of_another_record, SOME),
    ("sensitivity", sensitivity.history_of_another_record, SOME),
    ("sensitivity", sensitivity.drawn_by_position, SOME),
    ("sensitivity", sensitivity.silent_when_empty, EVERYWHERE),
    ("sampler", sampling.rate_of_the_private_size, EVERYWHERE),
    ("sampler", sampling.one_coin_for_all, SOME),
    ("sampler", sampling.never_empty, SOME),
    ("weights", sampling.weighted_by_records, ON_CLIENTS),
    ("weights", sampling.mean_over_the_drawn, ON_CLIENTS),
    ("egress", egress.loss_leaked, SOME),
    ("egress", egress.number_of_examples_sent, SOME),
    ("egress", egress.gradient_norms_sent, SOME),
    ("egress", egress.another_reply_than_committed, {"C1": C1}),
    ("ledger order", ledger.reserved_after_reading, EVERYWHERE),
    ("ledger order", ledger.not_on_disk, SOME),
    ("ledger order", ledger.forgotten_at_restart, SOME),
    ("ledger order", ledger.budget_not_asked, SOME),
    ("ledger order", ledger.refused_with_a_sentence, {"C1": C1}),
]
