"""A new federation: its configuration with the noise solved, its keys and certificates, and the invitation.

Nothing here runs a round; the data set that it reads is the operator's own.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hushrec.common.budget import enforced_claim, is_private, require_plan, spent_after, with_noise
from hushrec.common.config import RunConfig
from hushrec.common.datasets import data_folder
from hushrec.common.errors import ConfigError, HushrecError
from hushrec.common.invitation import Invitation, public_settings, read_invitation, write_invitation
from hushrec.server.deployment import certificates, flower
from hushrec.server.deployment.folder import OperatorFolder, ServerSettings, write_file
from hushrec.server.deployment.supervisor import write_server_pair

_NAME = re.compile(r"[\w. -]{1,64}")


def check_settings(settings: ServerSettings) -> None:
    """Raises:
    ConfigError: a name, an address or a port that cannot be.
    """
    certificates.check_name(settings.host)
    if not _NAME.fullmatch(settings.federation):
        raise ConfigError(f"expected --name of 1 to 64 letters, digits, spaces or . _ -, got {settings.federation!r}")
    for address in (*settings.addresses, settings.listen):
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise ConfigError(f"expected an IP address, got {address!r}") from error
    if not 0 < settings.port < 65536:
        raise ConfigError(f"expected --port in 1..65535, got {settings.port}")


def deployed_config(config: RunConfig, devices: int, run: Path) -> RunConfig:
    """The configuration as a federation runs it: every reply is one client's, paths are absolute, the noise is solved.

    Args:
        devices: clients that will be enrolled, at most; 0: as many as are asked in a round, who then take part in
            every one.
        run: the run directory.
    Raises:
        ConfigError: no such number can be told, or no noise reaches the target.
    """
    clients = count_devices(config, devices)
    folder, base = config.data.folder, config.model.base
    config = config.replace(
        federation__execution="one-by-one",
        run__directory=str(run),
        data__folder=str(Path(data_folder(folder)).absolute()) if folder else "",
        model__base=str(Path(base).absolute()) if Path(base).exists() else base,
    )
    records = config.privacy.max_records if config.privacy.unit == "record" else 1
    config = with_noise(config, clients, clients * records)
    require_plan(config, clients)
    return config


def count_devices(config: RunConfig, devices: int) -> int:
    """How many clients the noise is for.

    Raises:
        ConfigError: neither --devices nor the configuration says, the clients are silos, or see only a window.
    """
    if config.federation.shape != "devices":
        raise ConfigError(
            "a deployed client holds one user: federation.shape must be 'devices' (silos run in simulations only)"
        )
    if config.data.window_ends:
        raise ConfigError("a deployed client trains on what it holds now: leave out data.window-ends")
    if not (clients := devices or config.federation.clients_per_round):
        raise ConfigError(
            "say with --devices how many devices will be enrolled; federation.clients-per-round = 0 asks all"
        )
    return clients


def init_folder(path: Path, settings: ServerSettings, config: RunConfig) -> OperatorFolder:
    """Make an operator's folder; it is there whole, or not at all.

    Args:
        settings: `devices` as given, 0 where it was not.
        config: as the experiment has it.
    Raises:
        ConfigError: the folder exists, or the settings or the configuration cannot be served.
    """
    final = OperatorFolder(path)
    if path.exists():
        raise ConfigError(f"{path} exists already; choose another folder, a federation is made only once")
    check_settings(settings)
    config = deployed_config(config, settings.devices, final.run)
    clients = count_devices(config, settings.devices)
    least = min(clients, config.federation.clients_per_round or clients)
    settings = replace(settings, devices=clients, least_nodes=least)
    draft = OperatorFolder(final.path.with_name(f".{final.path.name}.{secrets.token_hex(4)}"))
    try:
        draft.make()
        _fill(draft, settings, config)
        os.rename(draft.path, final.path)
    except OSError as error:
        raise HushrecError(f"cannot make {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
    return final


def _fill(folder: OperatorFolder, settings: ServerSettings, config: RunConfig) -> None:
    from hushrec.common.base_model import load_base_model
    from hushrec.common.workspace import open_dataset, open_split

    countersign = Ed25519PrivateKey.generate()
    folder.write_settings(settings)
    write_file(folder.countersign_key, countersign.private_bytes_raw().hex().encode())
    write_file(folder.secret, secrets.token_hex(32).encode())
    certificates.write_authority(folder.ca_key, folder.ca_certificate, settings.federation)
    write_server_pair(folder)
    write_file(folder.configuration, config.to_toml().encode())
    flower.write_app(folder, config)
    invitation = Invitation(
        federation=settings.federation,
        server=settings.address,
        ca_certificate=folder.ca_certificate.read_text(),
        server_key=countersign.public_key().public_bytes_raw().hex(),
        app_sha256=flower.app_sha256(folder),
        base_sha256=load_base_model(config.model.base).sha256,
        config=config,
        catalog=open_dataset(config.data).catalog,
        training_items=np.flatnonzero(open_split(config.data).warm_items),
    )
    write_invitation(folder.invitation, invitation)
    read_invitation(folder.invitation)  # as a device will


def refuse_other_constants(pinned: RunConfig, other: RunConfig) -> None:
    """Raises:
    ConfigError: `other` has another value for something that devices pinned; the first such key is named.
    """
    before, now = (public_settings(config.to_flat()) for config in (pinned, other))
    for key, value in before.items():
        if now[key] != value and key != "run.experiment":
            raise ConfigError(
                f"{key} is {value!r} in this federation and {now[key]!r} in the experiment; devices pinned the first. "
                "Leave the experiment out, or make a new federation for it"
            )


def privacy_words(config: RunConfig, devices: int) -> list[str]:
    """What the federation promises, in a few lines for people."""
    if not is_private(config):
        return ["NO PRIVACY (privacy.mechanism = none): updates leave the devices in the clear; research only"]
    claim, privacy = enforced_claim(config.privacy), config.privacy
    spent = spent_after(config, devices, config.federation.rounds)
    unit = f"record ({privacy.record_span} slots)" if privacy.unit == "record" else privacy.unit
    lines = [
        f"privacy: claim {claim.name}, unit = {unit}, epsilon <= {claim.target_epsilon:g} at delta = {claim.delta:g}",
        f"against: {claim.trust}",
        f"noise multiplier {privacy.noise_multiplier or privacy.statistics_noise_multiplier:.3f}; "
        f"epsilon {spent:.3f} after {config.federation.rounds} rounds with {devices} devices",
    ]
    if spent > claim.target_epsilon:
        lines.append("WARNING: the rounds cost more than the budget; devices will refuse the last of them")
    return lines


def send_words(invitation: Invitation, file: Path) -> tuple[str, ...]:
    """What the operator gives to the owners of devices."""
    return (
        f"fingerprint: {invitation.fingerprint}",
        f"send to device owners: {file}",
        "and tell them the fingerprint by another way than the file came, so that they can compare it",
    )
