"""What a run ships: whole, unchanged and for the right base model, or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from hushrec.common.bundle import ADAPTER, CATALOG, MANIFEST, Bundle, read_bundle, write_bundle
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import BundleError
from hushrec.common.interactions import History
from hushrec.common.item_graph import ItemGraph
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.settings import ModelConfig
from hushrec.common.splits import Case
from hushrec.common.workspace import build_model

ITEMS = load_dataset("synthetic").catalog


def save_bert(folder: Path, seed: int) -> None:
    words = sorted({word.strip("().").lower() for text in ITEMS.texts for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words) + 5, initializer_range=0.3, **size)).save_pretrained(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle of a model with changed adapters, its folder and its scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSHREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        base = tmp_path_factory.mktemp("bert")
        save_bert(base, 0)
        config = ModelConfig(base=str(base), dtype="float32", head_dim=4, r=2)
        model = build_model(config, ITEMS)
        rng = np.random.default_rng(0)
        adapter = {n: v + rng.normal(0, 0.1, v.shape).astype(np.float32) for n, v in model.recommender.read().items()}
        choices = ScoringChoices(recency_decay=0.8, popularity_weight=0.5)
        prior = rng.random(len(ITEMS), dtype=np.float32)
        privacy = {"epsilon": 7.9, "delta": 1e-5, "mechanism": "gaussian", "counts": {1: 2, 10: 3, 2: None}}
        bundle = Bundle(config, model.base.sha256, ITEMS, adapter, prior, choices, privacy, "tést")
        folder = tmp_path_factory.mktemp("run") / "bundle"
        write_bundle(folder, bundle)
        yield bundle, folder, LMScorer("hushrec", model, adapter, prior, choices).score(CASES)


CASES = [Case(0, History(np.array([3, 9, 1], np.int32), np.zeros(3, np.int64)), np.array([2], np.int32))]


def test_a_bundle_reads_back_equal_and_scores_the_same(made: Any) -> None:
    bundle, folder, scores = made
    read = read_bundle(folder)
    assert read.model_config == bundle.model_config
    assert (read.base_sha256, read.choices, read.experiment) == (bundle.base_sha256, bundle.choices, "tést")
    assert read.privacy["epsilon"] == 7.9
    assert read.catalog.item_ids == ITEMS.item_ids
    assert read.catalog.texts == ITEMS.texts
    assert read.catalog.genres == ITEMS.genres
    assert all(np.array_equal(read.adapter[name], bundle.adapter[name]) for name in bundle.adapter)
    model, scorer = read.scorer()
    np.testing.assert_array_equal(scorer.score(CASES), scores)
    assert len(model.prefix) == len(ITEMS)


def test_a_run_directory_is_read_through_its_bundle(made: Any) -> None:
    assert read_bundle(made[1].parent).base_sha256 == made[0].base_sha256


@given(
    name=st.sampled_from([MANIFEST, ADAPTER, CATALOG]), place=st.floats(0, 1, exclude_max=True), xor=st.integers(1, 255)
)
@settings(max_examples=150, deadline=None)
def test_any_changed_byte_is_refused(made: Any, name: str, place: float, xor: int) -> None:
    file = made[1] / name
    good = file.read_bytes()
    changed = bytearray(good)
    changed[int(place * len(good))] ^= xor
    try:
        file.write_bytes(changed)
        with pytest.raises(BundleError):
            read_bundle(made[1])
    finally:
        file.write_bytes(good)


@pytest.mark.parametrize("name", [MANIFEST, ADAPTER, CATALOG])
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_missing_or_truncated_file_is_refused(made: Any, tmp_path: Path, name: str, keep: int) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[1], folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    with pytest.raises(BundleError):
        read_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match="no bundle in"):
        read_bundle(folder)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "{}", '{"format": 1}', '{"format": 1, "files": 3}', "\xff"])
def test_a_manifest_of_another_kind_is_refused(made: Any, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[1], folder)
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(BundleError):
        read_bundle(folder)


def test_a_later_format_is_refused_by_number(made: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[1], folder)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(BundleError, match="format 2, this hushrec reads 1"):
        read_bundle(folder)


def test_another_base_model_is_refused(made: Any, tmp_path: Path) -> None:
    save_bert(tmp_path, 1)
    other = replace(made[0], model_config=replace(made[0].model_config, base=str(tmp_path)))
    with pytest.raises(BundleError, match="trained on a base model"):
        other.scorer()


def test_an_adapter_of_another_shape_is_refused(made: Any) -> None:
    other = replace(made[0], model_config=replace(made[0].model_config, r=3))
    with pytest.raises(BundleError, match="does not fit"):
        other.scorer()


def test_a_bundle_holds_released_values_and_public_texts_only(made: Any) -> None:
    assert sorted(file.name for file in made[1].iterdir()) == sorted([MANIFEST, ADAPTER, CATALOG])
    manifest = json.loads((made[1] / MANIFEST).read_text(encoding="utf-8"))
    expected = {"format", "experiment", "base_sha256", "model", "choices", "privacy", "files", "sha256"}
    assert set(manifest) == expected


def test_an_item_graph_travels_with_the_bundle_and_changes_the_scores(made: Any, tmp_path: Path) -> None:
    bundle, _, plain = made
    swap = scipy.sparse.csr_array(np.eye(len(ITEMS), dtype=np.float32)[::-1])
    chosen = replace(bundle.choices, graph_weight=0.5)
    with_graph = replace(bundle, graph=ItemGraph(swap, bundle.model_config.graph_hops), choices=chosen)
    write_bundle(tmp_path / "bundle", with_graph)
    read = read_bundle(tmp_path / "bundle")
    assert read.graph is not None
    np.testing.assert_array_equal(read.graph.matrix.toarray(), swap.toarray())
    assert read.graph.hops == bundle.model_config.graph_hops
    scores = read.scorer()[1].score(CASES)
    np.testing.assert_array_equal(scores, with_graph.scorer()[1].score(CASES))
    assert not np.allclose(scores, plain)


def test_an_item_graph_that_does_not_fit_the_catalogue_is_refused(made: Any, tmp_path: Path) -> None:
    bundle = made[0]
    larger = scipy.sparse.csr_array(np.eye(len(ITEMS) + 1, dtype=np.float32))
    write_bundle(tmp_path / "bundle", replace(bundle, graph=ItemGraph(larger, 2)))
    with pytest.raises(BundleError, match="damaged"):
        read_bundle(tmp_path / "bundle")
