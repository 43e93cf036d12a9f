"""The student encoder: fewer layers, taught by a teacher's vectors, able to read texts that it was not taught."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hushrec.client.edge.export import ExportOptions, export
from hushrec.client.edge.pooled_encoder import PooledEncoder, merged_encoder
from hushrec.client.edge.student import Teaching, build_student, encode, read_student, size, teach, write_student
from hushrec.common.errors import ConfigError

LENGTH = 32
HELD_OUT = 20  # texts of the catalogue that are not taught


def taught(trained: Any, steps: int, seed: int = 0) -> PooledEncoder:
    model = trained.model
    model.recommender.write(trained.adapter)
    texts = list(trained.catalog.texts[HELD_OUT:])
    student = build_student(model.base, 1)
    teach(
        student,
        model.base,
        texts,
        model.encode_texts(texts).numpy(),
        trained.scorer.heads.item_head,
        own=10,
        max_length=LENGTH,
        teaching=Teaching(steps=steps, rate=3e-3, seed=seed),
    )
    return student


def agreement(trained: Any, student: PooledEncoder) -> np.ndarray:
    """Cosines with the teacher on the texts that are not taught."""
    model, texts = trained.model, list(trained.catalog.texts[:HELD_OUT])
    model.recommender.write(trained.adapter)
    return np.asarray((encode(student, model.base, texts, LENGTH) * model.encode_texts(texts).numpy()).sum(1))


@pytest.fixture(scope="module")
def student(trained: Any) -> PooledEncoder:
    return taught(trained, 80)


def test_a_taught_student_agrees_with_its_teacher_on_texts_that_it_never_saw(
    trained: Any, student: PooledEncoder
) -> None:
    untaught = agreement(trained, build_student(trained.model.base, 1)).mean()
    assert agreement(trained, student).mean() > untaught + 0.2


def test_teaching_is_seeded_and_moves_the_layers_alone(trained: Any, student: PooledEncoder) -> None:
    base = trained.model.base
    one, same, other = taught(trained, 3), taught(trained, 3), taught(trained, 3, seed=1)
    states = [copy.deepcopy(encoder.module.state_dict()) for encoder in (one, same, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())
    before, after = base.module.state_dict(), student.module.state_dict()
    embeddings = [name for name in after if name.startswith("embeddings.")]
    assert embeddings
    assert all(torch.equal(after[name], before[name]) for name in embeddings)
    assert not any(parameter.requires_grad for parameter in student.parameters())


def test_the_student_is_smaller_by_the_layers_that_went(trained: Any, student: PooledEncoder) -> None:
    whole, small = merged_encoder(trained.model), student
    layer = sum(parameter.numel() for parameter in whole.layers[0].parameters())
    assert size(small)[0] == size(whole)[0] - layer
    assert size(small)[1] == 4 * size(small)[0]
    assert len(small.layers) == 1


def test_a_written_student_reads_as_it_was(trained: Any, student: PooledEncoder, tmp_path: Path) -> None:
    base, texts = trained.model.base, list(trained.catalog.texts[:9])
    write_student(tmp_path, student, base)
    again = read_student(tmp_path, base)
    assert np.allclose(encode(again, base, texts, LENGTH), encode(student, base, texts, LENGTH), atol=1e-6)


def test_the_order_and_the_company_of_texts_do_not_matter(trained: Any, student: PooledEncoder) -> None:
    base, texts = trained.model.base, list(trained.catalog.texts[:40])
    together = encode(student, base, texts, LENGTH)
    assert np.allclose(encode(student, base, texts[::-1], LENGTH)[::-1], together, atol=1e-5)
    assert np.allclose(encode(student, base, texts[3:4], LENGTH)[0], together[3], atol=1e-5)
    assert encode(student, base, [], LENGTH).shape == (0, base.width)


def test_a_student_is_exported_and_priced_against_its_teacher(
    trained: Any, student: PooledEncoder, tmp_path: Path
) -> None:
    given = (trained.model, trained.catalog, trained.scorer, trained.adapter, {"mechanism": "none"})
    made = export(tmp_path / "edge", *given, ExportOptions(fp32=True), student=student)
    entry = made.manifest["encoder"]
    assert entry["chosen"] == "float32, student of 1 layers"
    whole, small = entry["tried"]
    assert small["megabytes"] < whole["megabytes"]
    assert small["neighbours"] < whole["neighbours"] == 1.0


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_a_student_that_is_not_smaller_is_refused(trained: Any, layers: int) -> None:
    with pytest.raises(ConfigError, match=r"model\.student-layers"):
        build_student(trained.model.base, layers)


def test_another_model_is_no_student(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_student(tmp_path, trained.model.base)
