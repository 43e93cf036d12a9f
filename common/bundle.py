"""What a run ships: adapter, prior, catalogue and a manifest that says what they are and what they cost in privacy.

A bundle holds released values and public texts only. Reading one checks every hash before anything is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hushrec.common.catalog import Catalog, catalog_from_json, catalog_to_json
from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.item_graph import ItemGraph
from hushrec.common.manifest import sealed
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.settings import ModelConfig
from hushrec.common.workspace import Model, build_model, build_text_model

FORMAT = 1
MANIFEST, ADAPTER, CATALOG = "manifest.json", "adapter.safetensors", "catalog.json"
_CSR = ("data", "indices", "indptr")  # of the item graph's matrix


@dataclass(frozen=True, eq=False)
class Bundle:
    """Everything that is needed to recommend.

    Attributes:
        model_config: how the model is built.
        base_sha256: of the base model's weights; another base is refused.
        adapter: trained tensors, float32.
        log_popularity: float32 (items,).
        choices: recency, popularity weight, ... as validated.
        privacy: the privacy section of results.json, as spent.
        experiment: name of the run it came from.
        graph: the public item graph that the choices weigh; None where they do not.
    """

    model_config: ModelConfig
    base_sha256: str
    catalog: Catalog
    adapter: Arrays
    log_popularity: NDArray[np.float32]
    choices: ScoringChoices
    privacy: dict[str, Any]
    experiment: str
    graph: ItemGraph | None = None

    def scorer(self) -> tuple[Model, LMScorer]:
        """The model and its scorer, ready to recommend.

        Raises:
            BundleError: the base model at hand is not the one the adapter was trained on, or shapes differ.
        """
        model = self._checked(build_model(self.model_config, self.catalog))
        scorer = LMScorer("hushrec", model, self.adapter, self.log_popularity, self.choices)
        if self.graph is not None:
            scorer = scorer.with_graph(self.graph, self.choices.graph_weight)
        return model, scorer

    def text_model(self, center: NDArray[np.float32]) -> Model:
        """The model at the adapter, to encode texts beside stored vectors of the catalogue.

        Args:
            center: float32 (width,), of the stored vectors' heads.
        Raises:
            BundleError: as `scorer`.
        """
        model = self._checked(build_text_model(self.model_config, self.catalog))
        model.recommender.write(self.adapter)
        model.recommender.center.data.copy_(torch.from_numpy(np.array(center)))
        return model

    def _checked(self, model: Model) -> Model:
        if model.base.sha256 != self.base_sha256:
            raise BundleError(
                f"the bundle was trained on a base model with SHA-256 {self.base_sha256[:12]}..., but "
                f"{self.model_config.base!r} here has {model.base.sha256[:12]}...; install that model"
            )
        if {name: value.shape for name, value in self.adapter.items()} != model.shapes:
            raise BundleError("the bundle's adapter does not fit its own model configuration; it is damaged")
        return model


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the bundle; the manifest, which names the hashes, comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"adapter/{name}": np.ascontiguousarray(value) for name, value in bundle.adapter.items()}
    tensors["log-popularity"] = np.ascontiguousarray(bundle.log_popularity)
    if bundle.graph is not None:
        tensors |= {f"graph/{part}": getattr(bundle.graph.matrix, part) for part in _CSR}
    files = {ADAPTER: save(tensors), CATALOG: json.dumps(catalog_to_json(bundle.catalog), ensure_ascii=False).encode()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = {
        "format": FORMAT,
        "experiment": bundle.experiment,
        "base_sha256": bundle.base_sha256,
        "model": dataclasses.asdict(bundle.model_config),
        "choices": dataclasses.asdict(bundle.choices),
        "privacy": bundle.privacy,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    (folder / MANIFEST).write_text(sealed(manifest), encoding="utf-8")


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle; a run directory works too (its bundle/ is read).

    Raises:
        BundleError: missing, damaged, of another format, or changed since it was written.
    """
    if not (folder / MANIFEST).exists() and (folder / "bundle" / MANIFEST).exists():
        folder = folder / "bundle"
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise BundleError(f"{folder} has bundle format {manifest['format']}, this hushrec reads {FORMAT}")
        if sealed(manifest) != text:
            raise BundleError(f"{folder / MANIFEST} is not as it was written; fetch the bundle again")
        content = {name: (folder / name).read_bytes() for name in (ADAPTER, CATALOG)}
        for name, data in content.items():
            if hashlib.sha256(data).hexdigest() != manifest["files"][name]:
                raise BundleError(f"{folder / name} is not the file its manifest describes; fetch the bundle again")
        tensors = load(content[ADAPTER])
        config = _model_config(manifest["model"])
        return Bundle(
            model_config=config,
            base_sha256=manifest["base_sha256"],
            catalog=catalog_from_json(json.loads(content[CATALOG])),
            adapter={n.removeprefix("adapter/"): v for n, v in tensors.items() if n.startswith("adapter/")},
            log_popularity=tensors["log-popularity"],
            choices=ScoringChoices(**manifest["choices"]),
            privacy=manifest["privacy"],
            experiment=manifest["experiment"],
            graph=_graph(tensors, config),
        )
    except FileNotFoundError as error:
        raise BundleError(
            f"no bundle in {folder}: expected {MANIFEST}, {ADAPTER} and {CATALOG}; a finished run has one in bundle/"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, ConfigError) as error:
        raise BundleError(f"the bundle in {folder} is damaged: {error}") from error


def _graph(tensors: Arrays, config: ModelConfig) -> ItemGraph | None:
    if f"graph/{_CSR[0]}" not in tensors:
        return None
    items = len(tensors["log-popularity"])
    matrix = scipy.sparse.csr_array(tuple(tensors[f"graph/{part}"] for part in _CSR), shape=(items, items))
    return ItemGraph(matrix, config.graph_hops)


def _model_config(values: dict[str, Any]) -> ModelConfig:
    flat = {
        f"model.{name.replace('_', '-')}": ",".join(value) if isinstance(value, list) else value
        for name, value in values.items()
    }
    # What a claim allows was asked before training; here the model's own values are checked.
    return RunConfig.from_flat({**flat, "privacy.mechanism": "none"}, "the bundle's manifest").model
