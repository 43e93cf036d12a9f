"""Export: from a model at an adapter to an edge folder with an encoder, its size, time and ranking measured.

The device part (folder, recommender, text_encoder) never imports this; it needs torch, onnx and onnxruntime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushrec.client.edge.pooled_encoder import (
    PooledEncoder,
    merged_encoder,
    token_batches,
    tokenizer_json,
    write_onnx,
)
from hushrec.client.edge.prune import prune_feed_forward, prune_heads
from hushrec.client.edge.quantise import MOST_LOSS, choose
from hushrec.client.edge.ranking_check import Figures, RankingCheck, Validation
from hushrec.client.edge.vectors import store_vectors
from hushrec.common.catalog import Catalog
from hushrec.common.edge_folder import EdgeFolder, sole_writer, write_edge_folder
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.workspace import Model

JUDGED = 64  # public texts that decide which heads go
CHECKED = 8  # public texts on which the exported graph must equal the model


@dataclass(frozen=True)
class ExportOptions:
    """What is asked of the encoder.

    Attributes:
        fp32: no quantisation.
        prune_heads: attention heads to remove, over all layers.
        prune_feed_forward: share of the inner feed-forward units to remove, in [0, 1).
    """

    fp32: bool = False
    prune_heads: int = 0
    prune_feed_forward: float = 0.0

    @property
    def prunes(self) -> bool:
        """Whether anything is removed."""
        return self.prune_heads > 0 or self.prune_feed_forward > 0


def export(
    folder: Path,
    model: Model,
    catalog: Catalog,
    scorer: LMScorer,
    adapter: Arrays,
    privacy: dict[str, Any],
    options: ExportOptions,
    *,
    experiment: str = "",
    validation: Validation | None = None,
    step: Callable[[str], None] = lambda name: None,
    student: PooledEncoder | None = None,
) -> EdgeFolder:
    """Write vectors and encoder, and what was measured, to the manifest's "encoder".

    Catalogue vectors are the model's own, whatever is done to the encoder: it reads queries and new items only.

    Args:
        model, scorer: at `adapter`, of `Bundle.scorer()`.
        validation: gives NDCG on the run's validation cases; None: public texts decide.
        step: called with what is being done.
        student: of client/edge/student.py, exported in place of the model's own encoder and priced against it.
    Raises:
        ConfigError: onnx or onnxruntime missing, an option out of range, or an architecture that cannot be exported.
    """
    content, tokenizer, entry = _measured(model, catalog, scorer, options, validation, step, student)
    step("writing the vectors")
    made = store_vectors(folder, model, catalog, scorer, adapter, privacy, experiment=experiment)
    files = {"encoder": content, "tokenizer": tokenizer}
    with sole_writer(folder):
        return write_edge_folder(folder, {**made.manifest, "encoder": entry}, files)


def _measured(
    model: Model,
    catalog: Catalog,
    scorer: LMScorer,
    options: ExportOptions,
    validation: Validation | None,
    step: Callable[[str], None],
    student: PooledEncoder | None,
) -> tuple[bytes, bytes, dict[str, Any]]:
    """The chosen ONNX model, its tokenizer, and the manifest's "encoder" with all that was tried."""
    step("exporting the encoder")
    encoder, texts, length = merged_encoder(model), catalog.texts, model.config.max_length
    checked = _spread(texts, CHECKED)
    content, tokenizer = write_onnx(encoder, model.base, checked, length), tokenizer_json(model.base)
    check = RankingCheck(scorer.heads, scorer.item_vectors, texts, tokenizer, length, content, validation)
    step("measuring float32")
    whole = reference = check.measure("float32", content)
    rows, removed = [whole], None
    if student is not None:
        encoder, content = student, write_onnx(student, model.base, checked, length)
        rows.append(reference := check.measure(f"float32, student of {len(student.layers)} layers", content))
    if options.prunes:
        step("pruning")
        gone = prune_heads(encoder, options.prune_heads, token_batches(model.base, _spread(texts, JUDGED), length))
        left = prune_feed_forward(encoder, options.prune_feed_forward)
        removed = {"heads": [list(place) for place in gone], "feed_forward_left": left}
        content = write_onnx(encoder, model.base, checked, length)
        rows.append(reference := check.measure("float32, pruned", content))
    chosen = reference.name
    if not options.fp32:
        content, chosen, tried = choose(content, reference, check, step)
        rows += tried
    return (
        content,
        tokenizer,
        {
            "chosen": chosen,
            "pruned": removed,
            "most_loss": MOST_LOSS,
            "decided_by": "public texts" if validation is None else "public texts and validation cases",
            "privacy_note": "pruning looks at public texts and weights alone and costs no privacy",
            "tried": [_row(figures, whole, reference) for figures in rows],
        },
    )


def _spread(texts: Sequence[str], number: int) -> Sequence[str]:
    """Some texts from the whole catalogue."""
    return texts[:: max(len(texts) // number, 1)][:number]


def _row(figures: Figures, whole: Figures, reference: Figures) -> dict[str, Any]:
    """The figures with both losses: against the unpruned float32, and through quantisation alone."""
    own = reference if figures is not whole else whole
    return dataclasses.asdict(figures) | {"loss": figures.loss(whole), "quantisation_loss": figures.loss(own)}
