"""The exported encoder: the same vectors as the model, smaller where the ranking allows, and pruned for real."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from hushrec.client.edge import quantise
from hushrec.client.edge.export import ExportOptions, export
from hushrec.client.edge.pooled_encoder import (
    PooledEncoder,
    merged_encoder,
    token_batches,
    tokenizer_json,
    write_onnx,
)
from hushrec.client.edge.prune import prune_feed_forward, prune_heads
from hushrec.client.edge.quantise import MOST_LOSS, Scheme, choose, quantised, weight_products
from hushrec.client.edge.ranking_check import Figures, RankingCheck
from hushrec.client.edge.recommender import EdgeRecommender
from hushrec.client.edge.text_encoder import OnnxTextEncoder
from hushrec.common.base_model import BaseModel
from hushrec.common.config import RunConfig
from hushrec.common.edge_folder import check_edge_folder
from hushrec.common.errors import ConfigError
from hushrec.common.workspace import build_model

LENGTH = 32


@pytest.fixture(scope="module")
def content(trained: Any) -> bytes:
    """The float32 ONNX model."""
    return write_onnx(merged_encoder(trained.model), trained.model.base, trained.catalog.texts[:8], LENGTH)


@pytest.fixture(scope="module")
def check(trained: Any, content: bytes) -> RankingCheck:
    base, scorer = trained.model.base, trained.scorer
    texts = trained.catalog.texts
    return RankingCheck(scorer.heads, scorer.item_vectors, texts, tokenizer_json(base), LENGTH, content)


def encode(trained: Any, content: bytes, texts: list[str], **how: Any) -> np.ndarray:
    return OnnxTextEncoder(content, tokenizer_json(trained.model.base)).encode(texts, LENGTH, **how)


@pytest.mark.parametrize("adapter", ["lora", "ffa", "sb"])
def test_the_exported_encoder_gives_the_vectors_of_the_adapted_model(
    tiny: Callable[..., RunConfig], trained: Any, adapter: str
) -> None:
    config = tiny(model__adapter=adapter, model__top_layers=2).model
    model = build_model(config, trained.catalog)
    rng = np.random.default_rng(1)
    model.recommender.write({name: rng.normal(size=v.shape).astype(np.float32) for name, v in model.untrained.items()})
    texts = [*trained.catalog.texts[:6], "a word", "crime " * 40]
    found = OnnxTextEncoder(
        write_onnx(merged_encoder(model), model.base, trained.catalog.texts[:4], LENGTH), tokenizer_json(model.base)
    )
    expected = model.encode_texts(texts).numpy()
    for together in (False, True):
        np.testing.assert_allclose(found.encode(texts, 64, together=together), expected, atol=1e-5)
    frozen = PooledEncoder(model.base.module, model.base.layers)
    assert not np.allclose(frozen(*token_batches(model.base, texts, 64)[0]).numpy(), expected, atol=1e-2)


def test_exporting_leaves_the_models_it_came_from_alone(trained: Any, content: bytes) -> None:
    base = trained.model.base.module
    assert not base.training
    assert base.pooler is not None
    again = write_onnx(merged_encoder(trained.model), trained.model.base, trained.catalog.texts[:8], LENGTH)
    np.testing.assert_array_equal(encode(trained, again, ["crime"]), encode(trained, content, ["crime"]))


@pytest.mark.parametrize("family", ["DistilBert", "Roberta"])
def test_other_encoders_of_that_family_are_exported_and_pruned_too(trained: Any, family: str) -> None:
    import transformers

    tokenizer = trained.model.base.tokenizer
    small = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if family == "DistilBert":
        small |= {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24}
    else:
        small |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    config = getattr(transformers, f"{family}Config")(**small, attn_implementation="eager")
    module = getattr(transformers, f"{family}Model")(config).eval().requires_grad_(False)
    base = BaseModel(family, "0", tokenizer, module, 16, 2)
    encoder = PooledEncoder(module, 2)
    texts = trained.catalog.texts[:8]
    before = len(write_onnx(encoder, base, texts, LENGTH))
    assert len(prune_heads(encoder, 3, token_batches(base, texts, LENGTH))) == 3
    assert prune_feed_forward(encoder, 0.5) == 12
    assert len(write_onnx(encoder, base, texts, LENGTH)) < before


def test_an_export_that_computes_something_else_is_refused(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = merged_encoder(trained.model)
    real = torch.onnx.export

    def other(module: Any, *arguments: Any, **options: Any) -> None:
        with torch.no_grad():
            module.layers[0].output.dense.weight.mul_(1.05)
            real(module, *arguments, **options)
            module.layers[0].output.dense.weight.div_(1.05)

    monkeypatch.setattr(torch.onnx, "export", other)
    with pytest.raises(ConfigError, match="does not compute the same"):
        write_onnx(encoder, trained.model.base, trained.catalog.texts[:8], LENGTH)


def test_int8_makes_the_products_integer_but_those_left_out(content: bytes) -> None:
    products = weight_products(content)
    assert len(products) == 12  # six per layer

    def kinds(made: bytes) -> list[str]:
        return [node.op_type for node in onnx.load_from_string(made).graph.node]

    assert kinds(quantised(content, Scheme("all"))).count("MatMulInteger") == 12
    some = quantised(content, Scheme("some", per_channel=True, left_out=tuple(products[:5])))
    assert kinds(some).count("MatMulInteger") == 7
    assert kinds(quantised(content, Scheme("one"), only=(products[3],))).count("MatMulInteger") == 1
    assert "DequantizeLinear" in kinds(some)  # the embeddings
    assert "DequantizeLinear" not in kinds(quantised(content, Scheme("products", embeddings=False)))


def test_the_check_gives_float32_full_marks_and_sees_harm(trained: Any, check: RankingCheck, content: bytes) -> None:
    whole = check.measure("float32", content)
    assert (whole.neighbours, whole.overlap, whole.validation) == (1.0, 1.0, None)
    assert whole.milliseconds > 0
    assert whole.megabytes == len(content) / 1e6
    small = check.measure("int8", quantised(content, Scheme("int8")))
    assert 0.5 < small.neighbours < 1.0
    assert 0 < small.loss(whole) < 0.5
    other = merged_encoder(trained.model)
    with torch.no_grad():
        for parameter in other.layers.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    broken = check.measure("broken", write_onnx(other, trained.model.base, trained.catalog.texts[:8], LENGTH))
    assert broken.neighbours < small.neighbours
    assert broken.overlap < 0.8


def test_the_loss_is_the_larger_of_validation_and_neighbours() -> None:
    whole = Figures("float32", 4.0, 1.0, 0.2, 1.0, 1.0)
    assert dataclasses.replace(whole, validation=0.19).loss(whole) == pytest.approx(0.05)
    assert dataclasses.replace(whole, neighbours=0.9).loss(whole) == pytest.approx(0.1)
    lucky = dataclasses.replace(whole, validation=0.3, neighbours=0.98)
    assert lucky.loss(whole) == pytest.approx(0.02)
    assert dataclasses.replace(whole, validation=None).loss(whole) == 0


class Judge:
    """Measures nothing: gives the forms the neighbours that a test wants."""

    def __init__(self, good: str, real: RankingCheck) -> None:
        self.good, self.real = good, real

    def encode(self, content: bytes) -> np.ndarray:
        return self.real.encode(content)

    def measure(self, name: str, content: bytes) -> Figures:
        return Figures(name, len(content) / 1e6, 1.0, None, 1.0 if self.good in name else 0.5, 0.5)


@pytest.mark.parametrize(
    ("good", "chosen", "tried"),
    [
        ("int8", "int8", 1),
        ("per channel", "int8 per channel", 2),
        ("7 bits", "int8 per channel, 7 bits", 3),
        ("products float32", "int8 per channel, 1 of 12 products float32", 4),
        ("6 of 12", "int8 per channel, 6 of 12 products float32", 0),
        ("nothing", "float32", 8),
    ],
)
def test_the_smallest_form_that_keeps_the_ranking_is_chosen(
    check: RankingCheck, content: bytes, good: str, chosen: str, tried: int
) -> None:
    judge: Any = Judge(good, check)
    steps: list[str] = []
    made, name, figures = choose(content, Figures("float32", 1.0, 1.0, None, 1.0, 1.0), judge, steps.append)
    assert name == chosen
    assert len(figures) == (tried or len(figures))
    sizes = [figure.megabytes for figure in figures]
    assert sizes[3:] == sorted(sizes[3:])
    assert max(sizes[:3]) < min(sizes[3:], default=1.0)
    assert figures[-1].name == name or name == "float32"
    assert (made == content) == (chosen == "float32")
    assert len(steps) >= tried


def test_the_products_that_harm_most_are_left_out_first(
    check: RankingCheck, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One product gets an outlier that int8 cannot hold."""
    model = onnx.load_from_string(content)
    worst = weight_products(content)[11]
    node = next(node for node in model.graph.node if node.name == worst)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name in node.input)
    weight = onnx.numpy_helper.to_array(stored).copy()
    weight[0] *= 200.0  # every output channel gets one huge weight, and the rest of its column rounds to zero
    stored.CopyFrom(onnx.numpy_helper.from_array(weight, stored.name))
    judge: Any = Judge("nothing", check)
    seen: list[Scheme] = []
    real = quantise.quantised
    monkeypatch.setattr(
        quantise, "quantised", lambda made, scheme, only=(): seen.append(scheme) or real(made, scheme, only)
    )
    choose(model.SerializeToString(), Figures("float32", 1.0, 1.0, None, 1.0, 1.0), judge, lambda step: None)
    partial = [scheme for scheme in seen if scheme.left_out]
    assert partial[0].left_out == (worst,)
    assert [len(scheme.left_out) for scheme in partial] == [1, 2, 4, 6]


def test_pruning_removes_matrices_and_takes_the_least_important_head_first(trained: Any) -> None:
    encoder, base = merged_encoder(trained.model), trained.model.base
    batches = token_batches(base, trained.catalog.texts[:16], LENGTH)
    idle = encoder.layers[1].attention.output.dense
    with torch.no_grad():
        before = [encoder(*batch) for batch in batches]
        idle.weight[:, 8:16] = 0.0  # head 1 of layer 1 says nothing
        silent = [encoder(*batch) for batch in batches]
    assert prune_heads(encoder, 1, batches) == [(1, 1)]
    assert encoder.layers[1].attention.self.query.weight.shape == (24, 32)
    assert idle.weight.shape == (32, 24)
    for batch, expected, first in zip(batches, silent, before, strict=True):
        torch.testing.assert_close(encoder(*batch), expected)
        assert not torch.allclose(expected, first)
    assert prune_feed_forward(encoder, 0.25) == 36
    assert encoder.layers[0].intermediate.dense.weight.shape == (36, 32)
    assert encoder.layers[0].output.dense.weight.shape == (32, 36)


def test_the_smallest_inner_units_go_first(trained: Any) -> None:
    encoder = merged_encoder(trained.model)
    layer = encoder.layers[0]
    with torch.no_grad():
        layer.intermediate.dense.weight[::2] *= 1e-3
    kept = layer.intermediate.dense.weight[1::2].clone()
    assert prune_feed_forward(encoder, 0.5) == 24
    torch.testing.assert_close(layer.intermediate.dense.weight, kept)


@pytest.mark.parametrize("heads", [-1, 7])
def test_a_layer_keeps_one_head(trained: Any, heads: int) -> None:
    encoder = merged_encoder(trained.model)
    batches = token_batches(trained.model.base, trained.catalog.texts[:4], LENGTH)
    with pytest.raises(ConfigError, match=r"--prune-heads in 0\.\.6"):
        prune_heads(encoder, heads, batches)
    assert len(prune_heads(encoder, 6, batches)) == 6
    assert [layer.attention.self.query.out_features for layer in encoder.layers] == [8, 8]
    with pytest.raises(ConfigError, match="--prune-feed-forward in"):
        prune_feed_forward(encoder, 1.0)


def test_an_exported_folder_reports_every_form_that_was_tried(trained: Any, tmp_path: Path) -> None:
    given = (trained.model, trained.catalog, trained.scorer, trained.adapter, {"mechanism": "none"})
    steps: list[str] = []
    options = ExportOptions(prune_heads=1, prune_feed_forward=0.25)
    export(tmp_path, *given, options, validation=lambda encoded: float(encoded.shape[0]), step=steps.append)
    manifest = check_edge_folder(tmp_path).manifest
    entry = manifest["encoder"]
    names = [row["name"] for row in entry["tried"]]
    assert names[:3] == ["float32", "float32, pruned", "int8"]
    assert entry["chosen"] in names
    rows = {row["name"]: row for row in entry["tried"]}
    assert rows["float32"]["loss"] == 0
    assert rows["float32, pruned"]["loss"] > 0
    assert rows["float32, pruned"]["megabytes"] < rows["float32"]["megabytes"]
    assert rows["int8"]["megabytes"] < rows["float32, pruned"]["megabytes"]
    assert {row["validation"] for row in entry["tried"]} == {float(len(trained.catalog))}
    if entry["chosen"].startswith("int8"):
        assert rows[entry["chosen"]]["quantisation_loss"] <= MOST_LOSS
    assert entry["pruned"]["feed_forward_left"] == 36
    assert len(entry["pruned"]["heads"]) == 1
    assert manifest["files"]["encoder"]["bytes"] == round(rows[entry["chosen"]]["megabytes"] * 1e6)
    assert steps
    found = EdgeRecommender.open(tmp_path).recommend(np.array([1, 2], dtype=np.int32), query="crime")
    assert len(found) == 10


def test_the_tokenizer_of_a_device_is_that_of_the_model(trained: Any) -> None:
    from tokenizers import Tokenizer

    base = trained.model.base
    own = Tokenizer.from_str(tokenizer_json(base).decode())
    for text in ("Silent Harbour (1994). Crime", "", "Unknown wörds!"):
        own.enable_truncation(LENGTH)
        own.no_padding()
        assert own.encode(text).ids == base.tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"]
