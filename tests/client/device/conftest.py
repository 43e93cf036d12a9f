"""Invitations and device folders: of six films without any model, and of the synthetic data with a tiny one."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hushrec.client.device.database import Interaction
from hushrec.client.device.folder import DeviceFolder, create_device
from hushrec.client.edge.recommender import pack
from hushrec.common.base_model import load_base_model
from hushrec.common.catalog import Catalog, catalog_to_json
from hushrec.common.config import RunConfig
from hushrec.common.datasets import load_dataset
from hushrec.common.edge_folder import write_edge_folder
from hushrec.common.invitation import Invitation
from hushrec.common.scoring import ScoringChoices

TITLES = ("Toy Story", "Alien", "Alien", "The Matrix", "Heat", "Casino")
YEARS = (1995, 1979, 2020, 1999, 1995, 1995)


def _authority(name: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="session")
def authority() -> Callable[[str], str]:
    """PEM of a certificate authority by name, the same at each call."""
    return lru_cache(_authority)


@pytest.fixture(scope="session")
def invite(authority: Callable[[str], str]) -> Callable[..., Invitation]:
    """Invitations to a federation of six films; keywords as in RunConfig.replace."""

    def build(**changes: Any) -> Invitation:
        ids = tuple(f"i{number}" for number in range(len(TITLES)))
        texts = tuple(f"{title} ({year})" for title, year in zip(TITLES, YEARS, strict=True))
        settings: dict[str, Any] = {"privacy__noise_multiplier": 3.0, "federation__rounds": 10, **changes}
        return Invitation(
            federation="films",
            server="localhost:8443",
            ca_certificate=authority("ca"),
            server_key="0" * 64,
            app_sha256="1" * 64,
            base_sha256="2" * 64,
            config=RunConfig().replace(**settings),
            catalog=Catalog(ids, texts, TITLES, np.array(YEARS, dtype=np.int32), (("Film",),) * len(ids)),
            training_items=np.arange(len(ids)),
        )

    return build


@pytest.fixture
def kitchen(tmp_path: Path, invite: Callable[..., Invitation]) -> DeviceFolder:
    """A new device called kitchen."""
    return create_device(tmp_path / "device", invite(), "kitchen")


@pytest.fixture
def make_device(
    tiny: Callable[..., RunConfig], authority: Callable[[str], str], tmp_path: Path
) -> Callable[..., DeviceFolder]:
    """Devices that can train: the synthetic catalogue, a tiny model, by default the first user's interactions."""

    def build(interactions: list[Interaction] | None = None, name: str = "kitchen", **changes: Any) -> DeviceFolder:
        config, dataset = tiny(**changes), load_dataset("synthetic")
        ids, history = dataset.catalog.item_ids, dataset.histories[0]
        if interactions is None:
            pairs = zip(history.items.tolist(), history.times.tolist(), strict=True)
            interactions = [Interaction(ids[item], time) for item, time in pairs]
        invitation = Invitation(
            federation="synthetic",
            server="localhost:8443",
            ca_certificate=authority("ca"),
            server_key="0" * 64,
            app_sha256="1" * 64,
            base_sha256=load_base_model(config.model.base).sha256,
            config=config,
            catalog=dataset.catalog,
            training_items=np.arange(len(ids)),
        )
        device = create_device(tmp_path / f"device-{name}", invitation, name)
        with device.open_database() as database:
            database.add_interactions(interactions)
        return device

    return build


# Toys, space and crime: three tastes of the six films.
VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0.9, 0.1], [0, 0.6, 0.4], [0, 0, 1], [0, 0.1, 0.9]], dtype=np.float32)


@pytest.fixture(scope="session")
def export() -> Callable[[Path, Catalog], Path]:
    """Edge folders of a catalogue whose vectors are known."""

    def write(path: Path, catalog: Catalog) -> Path:
        vectors = np.resize(VECTORS, (len(catalog), 3))
        stream = io.BytesIO()
        np.save(stream, vectors)
        square, none = np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.float32)
        heads = {"item_head": square, "user_head": square, "offset": none, "center": none}
        zeros = np.zeros(len(catalog), dtype=np.float32)
        files = {
            "catalog": json.dumps(catalog_to_json(catalog)).encode(),
            "item_vectors": stream.getvalue(),
            "history_vectors": stream.getvalue(),
            "heads": pack(**heads, mix=np.array([1.0, 0.0]), log_popularity=zeros, prior=zeros),
        }
        choices = dataclasses.asdict(ScoringChoices())
        write_edge_folder(path, {"items": len(catalog), "added": 0, "dim": 3, "choices": choices, "files": {}}, files)
        return path

    return write
