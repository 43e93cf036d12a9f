"""Tests of common/identity.py."""

import stat
from pathlib import Path

import numpy as np
import pytest

from hushrec.common.errors import DataError
from hushrec.common.identity import hash_user_ids, load_id_key, mask_text, mix_hashes, public_hashes


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("write to jo.doe+x@mail.example.org now", "write to [email] now"),
        ("see https://example.org/a?b=1 please", "see [link] please"),
        ("see www.example.de and example.com/jo", "see [link] and [link]"),
        ("call +49 (0)30 1234-567", "call [phone]"),
        ("call 030/1234567 or 555-123-4567", "call [phone] or [phone]"),
        ("a 24-year-old technician", "a 24-year-old technician"),
        ("likes films of 1990-1995 and 2001, 2004", "likes films of 1990-1995 and 2001, 2004"),
        ("card 4111 1111 1111 1111 or 4111111111111111", "card [number] or [number]"),
        ("films of 1990-1995 1996-1999 again", "films of 1990-1995 1996-1999 again"),
        ("pay DE89 3704 0044 0532 0130 00 with AB12-CD34EF-GH56", "pay [code] with [code]"),
        ("follow @jo_doe, or a@b", "follow [handle], or a@b"),
        ("ship it to 12 Old Mill Road, Ashford", "ship it to [address], Ashford"),
        ("ich wohne Lindenstraße 12a", "ich wohne [address]"),
        ("SCI-FI-HORROR and UP-TO-DATE, 12 Monkeys", "SCI-FI-HORROR and UP-TO-DATE, 12 Monkeys"),
        ("  two\n lines ", "two lines"),
    ],
)
def test_personal_data_in_free_text_are_masked(given: str, expected: str) -> None:
    assert mask_text(given) == expected
    assert mask_text(expected) == expected


def test_key_is_made_once_and_only_the_owner_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUSHREC_ID_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = load_id_key()
    path = tmp_path / "hushrec" / "id.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["id.key"]
    assert len(key) == 32
    assert load_id_key() == key
    path.chmod(0o644)
    with pytest.raises(DataError, match=r"chmod 600"):
        load_id_key()
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(DataError, match=r"holds no key"):
        load_id_key()


def test_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HUSHREC_ID_KEY", "a long enough secret")
    assert load_id_key() == load_id_key()
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("HUSHREC_ID_KEY", "short")
    with pytest.raises(DataError, match=r"at least 16 characters"):
        load_id_key()


def test_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("HUSHREC_ID_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"or set HUSHREC_ID_KEY"):
        load_id_key()


def test_keyed_hashes_depend_on_id_and_key() -> None:
    one = hash_user_ids(["1", "2"], b"a" * 16)
    assert len({*one, *hash_user_ids(["1", "2"], b"b" * 16)}) == 4
    assert all(len(key) == 32 for key in one)
    with pytest.raises(DataError, match=r"16 to 64 bytes"):
        hash_user_ids(["1"], b"short")


def test_public_hashes_are_the_same_on_every_machine() -> None:
    assert public_hashes(["1", "2"], "tie user", 0).tolist() == [993644382096709884, 5008646242609926828]
    assert public_hashes(["2"], "tie user", 0)[0] == public_hashes(["1", "2"], "tie user", 0)[1]
    assert public_hashes(["1"], "tie user", 1)[0] != public_hashes(["1"], "tie user", 0)[0]


def test_mixed_hashes_are_spread_over_users_for_one_item() -> None:
    users = public_hashes([str(n) for n in range(1000)], "u", 0)
    mixed = mix_hashes(users, np.repeat(public_hashes(["1"], "i", 0), 1000))
    assert len(np.unique(mixed)) == 1000
    assert 400 < int((mixed > np.uint64(2**63)).sum()) < 600
