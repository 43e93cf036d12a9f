"""Device folders handed to an auditor: whole, forgotten, with another's ledger or key, beside an operator's folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hushrec.client.device.erasure import forget_device
from hushrec.client.device.folder import DeviceFolder, create_device
from hushrec.common.budget import enforced_claim, ledger_header, training_event
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.invitation import Invitation, write_invitation
from hushrec.common.ledger import Ledger
from hushrec.common.signed_head import sign_head
from hushrec.server.ledger_mirror import LedgerMirror
from hushrec.simulations import cli
from hushrec.simulations.audit.verify_ledger import verify

Audit = Callable[..., tuple[Any, str]]
SERVER, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
CONFIG = RunConfig().replace(privacy__noise_multiplier=3.0, federation__rounds=10)


def invitation(config: RunConfig = CONFIG) -> Invitation:
    titles = ("Toy Story", "Alien", "Heat")
    return Invitation(
        federation="films",
        server="localhost:8443",
        ca_certificate="-",
        server_key=SERVER.public_key().public_bytes_raw().hex(),
        app_sha256="1" * 64,
        base_sha256="2" * 64,
        config=config,
        catalog=Catalog(("a", "b", "c"), titles, titles, np.array([1995, 1979, 1995], dtype=np.int32), (("F",),) * 3),
        training_items=np.arange(3),
    )


def take_part(device: DeviceFolder, rounds: int, mirror: LedgerMirror | None = None) -> None:
    """Rounds as the device's ledger and database keep them; their replies arrive at the mirror."""
    event, key = training_event(CONFIG), device.signing_key()
    header = ledger_header(CONFIG, device.name)
    sizes: dict[str, Any] = {"seconds": 1.0, "peak_mb": 1.0, "bytes_down": 1, "bytes_up": 1}
    with Ledger.open(device.ledger, header, key=key) as ledger, device.open_database() as database:
        for number in range(1, rounds + 1):
            ledger.commit(ledger.reserve(number, [device.name], event), {device.name: "ab" * 32})
            database.add_round(server_round=number, release="training", **sizes)
            if mirror is not None:
                mirror.take(7, sign_head(ledger.head, ledger.length, key))


def cut(path: Path, lines: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))


@pytest.fixture
def device(tmp_path: Path) -> DeviceFolder:
    """A device after three rounds."""
    made = create_device(tmp_path / "kitchen", invitation(), "kitchen")
    take_part(made, 3)
    return made


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Audit:
    """`hushrec audit ARGUMENTS...` in a folder of its own: exit code, and what it said."""
    reports = tmp_path / "reports"
    reports.mkdir()
    monkeypatch.chdir(reports)

    def run(*arguments: object) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["hushrec", "audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return ended.value.code, " ".join((told.out + told.err).split())

    return run


def test_a_devices_folder_holds_and_says_what_is_spent_and_left(
    device: DeviceFolder, audit: Audit, tmp_path: Path
) -> None:
    before = sorted(device.path.iterdir())
    code, told = audit(device.path)
    assert code == 0
    assert f"signed with the folder's key {device.signing_key().public_key().public_bytes_raw().hex()}" in told
    assert "3 replies in its database, charged" in told
    found = json.loads((tmp_path / "reports" / "audit.json").read_text())
    event, claim = training_event(CONFIG), enforced_claim(CONFIG.privacy)
    (client,) = found["clients"]
    assert client["client"] == "kitchen"
    assert client["rdp"] == pytest.approx(claim.epsilon([replace(event, steps=3 * event.steps)]))
    fits = 3 + client["rounds_left"]
    spent = [claim.epsilon([replace(event, steps=rounds * event.steps)]) for rounds in (fits, fits + 1)]
    assert spent[0] <= claim.target_epsilon < spent[1]
    card = found["claim_card"]
    assert card["claim"]["rounds_left"] == client["rounds_left"]
    assert card["mechanism"]["clipping_norm"] == CONFIG.privacy.max_grad_norm
    assert verify(device.ledger, tmp_path / "reports" / "claim_card.json")[0] == 0
    assert sorted(device.path.iterdir()) == before


def test_what_forgetting_leaves_and_a_folder_of_three_files_are_audited(device: DeviceFolder, audit: Audit) -> None:
    for name in ("device.toml", "data.sqlite", "node_key"):
        (device.path / name).unlink()
    code, told = audit(device.path)
    assert (code, "its database cannot be read" in told) == (0, True)
    device.ledger_key.unlink()
    code, told = audit(device.path)
    assert (code, "there is no ledger.key to compare" in told) == (0, True)


def test_a_forgotten_device_is_audited_by_its_ledger_and_one_that_never_took_part_says_so(
    device: DeviceFolder, audit: Audit, tmp_path: Path
) -> None:
    idle = create_device(tmp_path / "idle", invitation(), "idle")
    code, told = audit(device.path, idle.path)
    assert code == 0
    assert "not tested: device idle: It has no ledger: nothing was ever asked" in told
    code, told = audit(idle.path)
    assert (code, "nothing is spent" in told) == (2, True)
    forget_device(device)
    code, told = audit(device.path)
    assert code == 0
    assert "its invitation was forgotten, so its constants are compared with nothing" in told


def test_another_key_other_constants_and_a_cut_or_missing_ledger_are_unusable(
    device: DeviceFolder, audit: Audit, tmp_path: Path
) -> None:
    whole, key = device.ledger.read_bytes(), device.ledger_key.read_text()
    device.ledger_key.write_text(OTHER.private_bytes_raw().hex())
    code, told = audit(device.path)
    assert (code, "is not signed with" in told) == (2, True)
    device.ledger_key.write_text(key)
    cut(device.ledger, 5)
    code, told = audit(device.path)
    assert code == 2
    assert "is truncated, or an older copy: the database says that 3 training replies were sent" in told
    device.ledger.unlink()
    code, told = audit(device.path)
    assert (code, "is missing, although this device took part" in told) == (2, True)
    device.ledger.write_bytes(whole)
    write_invitation(device.invitation_file, invitation(CONFIG.replace(privacy__noise_multiplier=2.0)))
    code, told = audit(device.path)
    assert (code, "is not the invitation that this device agreed to" in told) == (2, True)
    device.settings_file.unlink()
    code, told = audit(device.path)
    assert (code, "is the ledger of another experiment than" in told) == (2, True)


def test_without_privacy_nothing_is_claimed_and_a_trusted_server_holds_the_ledger(audit: Audit, tmp_path: Path) -> None:
    none = create_device(tmp_path / "open", invitation(CONFIG.replace(privacy__mechanism="none")), "open")
    code, told = audit(none.path)
    assert (code, "NO PRIVACY" in told) == (0, True)
    central = CONFIG.replace(privacy__mechanism="central", privacy__unit="user", federation__clients_per_round=0)
    trusting = create_device(tmp_path / "central", invitation(central), "central")
    code, told = audit(trusting.path)
    assert (code, "trusts the server, which holds the ledger" in told) == (2, True)


def test_an_operators_folder_brings_its_mirror_and_the_device_its_servers_key(audit: Audit, tmp_path: Path) -> None:
    device, operator = create_device(tmp_path / "hall", invitation(), "hall"), tmp_path / "operator"
    operator.mkdir()
    (operator / "server.json").write_text("{}")
    write_invitation(operator / "invitation.json", invitation())
    with LedgerMirror(operator / "run", SERVER) as mirror:
        take_part(device, 3, mirror)
    for arguments in ([device.ledger, operator], [device.path, "--mirror", operator / "run" / "mirror.jsonl"]):
        code, told = audit(*arguments)
        assert code == 0
        assert "holds: mirror: 3 heads of 1 ledger(s) compared, countersigned by the server." in told
    code, told = audit(operator)
    assert (code, "it holds a mirror" in told) == (2, True)
    device.database.unlink()
    cut(device.ledger, 5)
    code, told = audit(device.path, operator)
    assert code == 1
    assert "was cut after line 5 (round 2): line 3 of the mirror saw line 7" in told
    assert "VIOLATED: mirror" in told
