"""A student of a run's encoder: taught on public texts, ranked beside its teacher, timed side by side, written down.

client/edge/student.py trains it. Items that are cold in the split are not in its teaching texts, so that its figures on
cold items are about texts it never saw.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hushrec.client.edge.pooled_encoder import PooledEncoder, merged_encoder
from hushrec.client.edge.student import Teaching, build_student, encode, size, teach, write_student
from hushrec.common.catalog import Catalog
from hushrec.common.prefix import Progress
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.splits import Split
from hushrec.common.teaching_texts import subset, teaching_texts
from hushrec.common.workspace import Model
from hushrec.server.ranking import Scorer, validation_ndcg

STUDENT, STUDENT_FOLDER = "hushrec_student", "student"  # the system, and where a run keeps it
REPEATS = 5  # of the timing, of which the median counts
_TIMED = 512  # texts


@dataclass(frozen=True, eq=False)
class Student:
    """A taught encoder and what is known of it.

    Attributes:
        vectors: float32 (items, width) of all catalogue texts.
        facts: size, speed and agreement, for results.json.
    """

    encoder: PooledEncoder
    model: Model
    vectors: NDArray[np.float32]
    facts: dict[str, Any] = field(default_factory=dict)

    def scorer(self, teacher: LMScorer, profiles: Mapping[int, str]) -> LMScorer:
        """The teacher's heads and choices over the student's vectors.

        Args:
            profiles: user position -> profile text, read by the student, too.
        """
        found = teacher.with_encoded(self.vectors)
        if profiles:
            length = max(self.model.config.max_length, 64)
            encoded = encode(self.encoder, self.model.base, list(profiles.values()), length)
            found = found.with_profiles(dict(zip(profiles, encoded, strict=True)))
        found.name = STUDENT
        return found


def student_system(
    model: Model,
    adapter: Arrays,
    teacher: LMScorer,
    catalog: Catalog,
    profiles: Mapping[int, str],
    folder: Path,
    teaching: Teaching | None = None,
    progress: Progress = lambda done, of: None,
) -> tuple[LMScorer, dict[str, Any]]:
    """Teach a student of `model.student-layers`, write it into `folder`, and give its scorer and facts.

    Args:
        teacher: hushrec's scorer at `adapter`.
        profiles: as in `Student.scorer`.
    """
    student = distil(model, adapter, catalog, teaching=teaching, progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    write_student(folder, student.encoder, model.base)
    return student.scorer(teacher, profiles), student.facts


def validated(teacher: Scorer, student: Scorer, split: Split, seed: int) -> dict[str, float]:
    """Validation NDCG of both and the share of it that the student keeps."""
    ours, kept = (validation_ndcg(scorer, split, seed=seed) for scorer in (teacher, student))
    return {"teacher": ours, "student": kept, "kept": kept / ours if ours else 0.0}


def distil(
    model: Model,
    adapter: Arrays,
    catalog: Catalog,
    *,
    teaching: Teaching | None = None,
    progress: Progress = lambda done, of: None,
) -> Student:
    """Teach a student of `model.student-layers` what the adapted encoder says of public texts.

    Args:
        model: its `training_items` are what the student may read; None: the whole catalogue.
        adapter: the teacher's; `model` holds it afterwards.
        progress: told steps done and steps in all.
    """
    started, teaching = time.monotonic(), teaching or Teaching()
    recommender = model.recommender
    recommender.write(adapter)
    known = catalog if model.training_items is None else subset(catalog, model.training_items)
    texts = teaching_texts(known, teaching.seed)
    targets = model.encode_texts(texts).numpy()
    maps = torch.cat([recommender.item_head.weight, recommender.user_head.weight]).detach().cpu().numpy()
    student = build_student(model.base, layers := model.config.student_layers)
    length = model.config.max_length
    how: dict[str, Any] = {"own": len(set(known.texts)), "max_length": length, "teaching": teaching}
    teach(student, model.base, texts, targets, maps, **how, progress=progress)
    seconds = time.monotonic() - started
    vectors = encode(student, model.base, catalog.texts, length)
    with torch.no_grad():
        wanted = recommender.encoder.encode(model.prefix, torch.arange(len(model.prefix))).cpu().numpy()
    teacher = merged_encoder(model)
    unseen = np.ones(len(catalog), dtype=np.bool_)
    unseen[np.arange(len(catalog)) if model.training_items is None else model.training_items] = False
    cosines = (vectors * wanted).sum(1)
    (parameters, weight), (teachers, teachers_weight) = size(student), size(teacher)
    facts = {
        "layers": layers,
        "parameters": parameters,
        "bytes": weight,
        "teacher_parameters": teachers,
        "teacher_bytes": teachers_weight,
        "speed_ratio": speed_ratio(teacher, student, model, catalog),
        "cosine": {"taught": _mean(cosines[~unseen]), "unseen": _mean(cosines[unseen])},
        "texts": len(texts),
        "steps": teaching.steps,
        "seconds": seconds,
    }
    return Student(student, model, vectors, facts)


def _mean(values: NDArray[np.float32]) -> float | None:
    return float(values.mean()) if len(values) else None


def speed_ratio(teacher: PooledEncoder, student: PooledEncoder, model: Model, catalog: Catalog) -> float:
    """How many times faster the student encodes: the median of REPEATS ratios, both measured in turn, in float32."""
    texts, ratios = catalog.texts[:_TIMED], []
    encode(student, model.base, texts[:64], model.config.max_length)
    for _ in range(REPEATS):
        seconds = []
        for encoder in (teacher, student):
            start = time.perf_counter()
            encode(encoder, model.base, texts, model.config.max_length)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)
