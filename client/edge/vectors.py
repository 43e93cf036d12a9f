"""Write what a device ranks with into an edge folder: vectors, heads and catalogue of one adapter, everything but ONNX.

It needs torch, and runs where that is loaded anyway: in `hushrec export`, and in a device's worker after a round.
Entries of the manifest:

    experiment, base_sha256, adapter_sha256   what the vectors were made with
    items, added, dim, width, dtype           rows of the memory-mapped files, rows added on the device, their shape
    max_length, query_length                  tokens kept of an item's text and of a typed one
    choices, privacy                          as in the bundle's manifest; privacy is the claim as spent
    heads                                     the file with center, heads, core offset, mix and prior
    encoder                                   null, or what client/edge/export.py measured and chose
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hushrec.client.edge.recommender import added_files, pack
from hushrec.common.catalog import Catalog, catalog_from_json, catalog_to_json
from hushrec.common.edge_folder import EdgeFolder, open_edge_folder, sole_writer, write_edge_folder
from hushrec.common.errors import BundleError, DataError
from hushrec.common.prefix import build_prefix
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import Floats32, ScoringChoices
from hushrec.common.workspace import Model, torch_dtype

QUERY_LENGTH = 64  # tokens of a typed text at least, as Model.encode_texts keeps them


def write_vectors(
    folder: Path,
    model: Model,
    catalog: Catalog,
    adapter: Arrays,
    log_popularity: NDArray[np.float32],
    choices: ScoringChoices,
    privacy: dict[str, Any],
    *,
    experiment: str = "",
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Encode the catalogue at `adapter` and write the folder, in one step for its readers.

    An encoder.onnx of the same adapter stays; one of another adapter would read texts by another model than the
    catalogue's, and goes. Items that were added on the device stay, encoded anew, unless the catalogue now has them.

    Args:
        model: of `catalog`; its recommender is set to `adapter`.
        log_popularity: float32 (items,), the released prior.
        privacy: the bundle's privacy section.
        dtype: of the memory-mapped vectors; float16 halves the file, takes longer to rank, and rounds the scores.
    """
    scorer = LMScorer("hushrec", model, adapter, log_popularity, choices)
    store_vectors(folder, model, catalog, scorer, adapter, privacy, experiment=experiment, dtype=dtype)


def store_vectors(
    folder: Path,
    model: Model,
    catalog: Catalog,
    scorer: LMScorer,
    adapter: Arrays,
    privacy: dict[str, Any],
    *,
    experiment: str,
    dtype: str = "float32",
) -> EdgeFolder:
    """As `write_vectors`, from a scorer that is at `adapter` already."""
    manifest = _manifest(model, scorer, len(catalog), adapter) | {"privacy": privacy, "experiment": experiment}
    manifest["dtype"] = dtype
    files = _files(catalog, scorer, dtype)
    with sole_writer(folder):
        if (before := _existing(folder)) is not None:
            if all(before.manifest[key] == manifest[key] for key in ("base_sha256", "adapter_sha256")):
                manifest["encoder"] = before.manifest["encoder"]
                kept = before.manifest["files"]
                manifest["files"] = {role: kept[role] for role in ("encoder", "tokenizer") if role in kept}
            added, number = _encode_added(before, model, scorer, catalog)
            files, manifest["added"] = files | added, number
        return write_edge_folder(folder, manifest, files)


def _manifest(model: Model, scorer: LMScorer, items: int, adapter: Arrays) -> dict[str, Any]:
    return {
        "base_sha256": model.base.sha256,
        "adapter_sha256": adapter_sha256(adapter),
        "items": items,
        "added": 0,
        "dim": len(scorer.heads.offset),
        "width": len(scorer.heads.center),
        "max_length": model.config.max_length,
        "query_length": max(model.config.max_length, QUERY_LENGTH),
        "choices": dataclasses.asdict(scorer.choices),
        "heads": "heads.npz: center, item_head, user_head, offset, mix, log_popularity, prior",
        "encoder": None,
        "files": {},
    }


def _files(catalog: Catalog, scorer: LMScorer, dtype: str) -> dict[str, bytes]:
    heads = scorer.heads
    return {
        "catalog": json.dumps(catalog_to_json(catalog), ensure_ascii=False).encode(),
        "item_vectors": _npy(scorer.item_vectors, dtype),
        "history_vectors": _npy(scorer.history_vectors, dtype),
        "heads": pack(
            center=heads.center,
            item_head=heads.item_head,
            user_head=heads.user_head,
            offset=heads.offset,
            mix=np.array([heads.scale, heads.beta], dtype=np.float64),
            log_popularity=scorer.log_popularity,
            prior=scorer.prior,
        ),
    }


def adapter_sha256(adapter: Arrays) -> str:
    """SHA-256 of the tensors as float32, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(adapter):
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(adapter[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def _npy(vectors: Floats32, dtype: str) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(vectors, dtype=dtype), allow_pickle=False)
    return stream.getvalue()


def _existing(folder: Path) -> EdgeFolder | None:
    try:
        return open_edge_folder(folder)
    except BundleError:
        return None  # none yet, or a damaged one that is about to be replaced


@torch.no_grad()
def _encode_added(before: EdgeFolder, model: Model, scorer: LMScorer, catalog: Catalog) -> tuple[dict[str, bytes], int]:
    """The files of the items added to the folder so far, at the new adapter, and their number."""
    if "added_catalog" not in before.manifest["files"]:
        return {}, 0
    try:
        columns = catalog_to_json(catalog_from_json(json.loads(before.read("added_catalog"))))
    except (BundleError, DataError, ValueError, KeyError, TypeError):
        return {}, 0
    known = set(catalog.item_ids)
    kept = [place for place, item in enumerate(columns["item_ids"]) if item not in known]
    if not kept:
        return {}, 0
    columns = {name: [column[place] for place in kept] for name, column in columns.items()}
    prefix = build_prefix(
        model.base,
        columns["texts"],
        top_layers=model.config.top_layers,
        max_length=model.config.max_length,
        dtype=torch_dtype(model.config),
        cached=False,
    )
    encoded = model.recommender.encoder.encode(prefix, torch.arange(len(prefix))).cpu().numpy()
    return added_files(scorer.heads.item_vectors(encoded), scorer.heads.history_vectors(encoded), columns), len(kept)
