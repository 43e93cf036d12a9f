"""The cache of frozen states: same numbers as without it, never trusted when damaged, safe to share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hushrec.common.base_model import BaseModel
from hushrec.common.prefix import Prefix, build_prefix, cache_folder, concatenate

WIDTH = 4
TEXTS = ["one two three", "", "four", "one two three four five six"]


class Layer(nn.Module):
    """Mixes the real tokens of a text, as attention would."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        weight = mask[..., None].float()
        return hidden + self.step * (hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)


class Layered(nn.Module):
    """A two-layer encoder without transformers, quick to build in another process."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(1.0), Layer(0.5)])
        self.forwards = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.forwards += 1
        hidden = torch.stack([(input_ids + place).float().sin() for place in range(WIDTH)], dim=-1)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return SimpleNamespace(last_hidden_state=hidden)


class Words:
    """A tokenizer: two special tokens around one number per word."""

    pad_token_id = None

    def __call__(self, texts: list[str], *, max_length: int, **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, *map(len, text.split()), 2][:max_length] for text in texts]}


def small_base(sha256: str = "ab" * 32) -> BaseModel:
    return BaseModel("small", sha256, Words(), Layered(), WIDTH, 2)


def build(base: BaseModel, texts: list[str] = TEXTS, **changes: Any) -> Prefix:
    options: dict[str, Any] = {"top_layers": 1, "max_length": 16, "dtype": torch.float32, **changes}
    return build_prefix(base, texts, **options)


def same(a: Prefix, b: Prefix) -> bool:
    return torch.equal(a.hidden, b.hidden) and torch.equal(a.offsets, b.offsets)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUSHREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prefix"


def states(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.states"))


def test_what_the_cache_returns_is_what_was_computed_and_costs_no_forward_pass(cache: Path) -> None:
    base = small_base()
    first = build(base)
    passes = base.module.forwards
    assert same(build(base), first)
    assert base.module.forwards == passes > 0
    assert same(build(base, cached=False), first)
    assert len(states(cache)) == 1


def test_texts_that_are_not_to_be_cached_leave_nothing_on_disk(cache: Path) -> None:
    build(small_base(), cached=False)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("texts", "changes"),
    [
        (["one two three", "", "four", "one two three four five seven"], {}),
        (TEXTS[::-1], {}),
        ([*TEXTS, ""], {}),
        (["one two threefour", "", "", "one two three four five six"], {}),
        (TEXTS, {"top_layers": 0}),
        (TEXTS, {"top_layers": 2}),
        (TEXTS, {"max_length": 15}),
        (TEXTS, {"dtype": torch.bfloat16}),
    ],
)
def test_the_key_changes_with_texts_layers_length_and_dtype(
    cache: Path, texts: list[str], changes: dict[str, Any]
) -> None:
    base = small_base()
    build(base)
    build(base, texts, **changes)
    assert len(states(cache)) == 2


def test_the_key_changes_with_the_base_model(cache: Path) -> None:
    build(small_base())
    build(small_base("cd" * 32))
    assert len(states(cache)) == 2


def test_the_cache_folder_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("HUSHREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hushrec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hushrec"


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_cache_file_with_any_flipped_bit_is_computed_again(place: float, bit: int) -> None:
    base = small_base()
    expected = build(base)
    (path,) = states(cache_folder() / "prefix")
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[int(place * len(good))] ^= 1 << bit
    path.write_bytes(damaged)
    assert same(build(base), expected)
    assert path.read_bytes() == good


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 32, b"garbage" * 100])
def test_garbage_in_the_cache_is_computed_again(cache: Path, content: bytes) -> None:
    expected = build(small_base())
    (path,) = states(cache)
    path.write_bytes(content)
    assert same(build(small_base()), expected)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_cache_file_is_computed_again(cache: Path, keep: float) -> None:
    expected = build(small_base())
    (path,) = states(cache)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert same(build(small_base()), expected)


def test_a_whole_cache_file_of_other_texts_is_not_taken(cache: Path) -> None:
    base = small_base()
    expected = build(base)
    (path,) = states(cache)
    build(base, ["one"])
    (other,) = set(states(cache)) - {path}
    path.write_bytes(other.read_bytes())
    assert same(build(base), expected)


def test_a_writer_that_was_killed_half_way_is_no_obstacle(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            build(small_base())
    assert states(cache) == []
    assert same(build(small_base()), build(small_base(), cached=False))


def test_two_runs_at_once_share_the_cache_and_compute_once(cache: Path, tmp_path: Path) -> None:
    program = (
        "import importlib.util, sys, time\n"
        "spec = importlib.util.spec_from_file_location('shared', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "from hushrec.common import prefix\n"
        "compute = prefix._compute\n"
        "def slow(*args):\n"
        "    open(sys.argv[2], 'a').write('computed\\n'); time.sleep(0.5); return compute(*args)\n"
        "prefix._compute = slow\n"
        "made = module.build(module.small_base())\n"
        "assert module.same(made, module.build(module.small_base(), cached=False))\n"
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", program, __file__, str(log)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert len(states(cache)) == 1
    assert len(log.read_text().splitlines()) == 3  # two without the cache, one for it


def test_states_of_a_text_do_not_depend_on_the_texts_around_it() -> None:
    base = small_base()
    together = build(base, cached=False)
    for number, text in enumerate(TEXTS):
        alone = build(base, [text], cached=False)
        own = together.hidden[together.offsets[number] : together.offsets[number + 1]]
        torch.testing.assert_close(own, alone.hidden)


def test_padded_states_are_the_stored_ones_and_the_mask_tells_which() -> None:
    prefix = build(small_base(), cached=False)
    index = torch.tensor([2, 0, 2])
    hidden, mask = prefix.padded(index)
    assert hidden.shape == (3, 5, WIDTH)
    assert mask.sum(1).tolist() == prefix.lengths[index].tolist() == [3, 5, 3]
    for row, text in enumerate(index.tolist()):
        own = prefix.hidden[prefix.offsets[text] : prefix.offsets[text + 1]]
        assert torch.equal(hidden[row, : len(own)], own)


def test_concatenated_prefixes_hold_both() -> None:
    base = small_base()
    both = concatenate(build(base, TEXTS[:2], cached=False), build(base, TEXTS[2:], cached=False))
    torch.testing.assert_close(both.hidden, build(base, cached=False).hidden)
    assert torch.equal(both.offsets, build(base, cached=False).offsets)


def test_no_text_an_empty_text_and_a_long_text_are_all_encoded() -> None:
    base = small_base()
    assert len(build(base, [], cached=False)) == 0
    assert build(base, ["", "a " * 99], cached=False).lengths.tolist() == [2, 16]


def test_progress_counts_up_to_all_texts() -> None:
    seen: list[tuple[int, int]] = []
    build(small_base(), ["a"] * 600, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 600), (512, 600), (600, 600)]


def test_the_forward_pass_stops_below_the_adapted_layers_and_leaves_no_hook() -> None:
    base = small_base()
    whole = build(base, top_layers=0, cached=False)
    lower = build(base, top_layers=1, cached=False)
    assert not torch.equal(whole.hidden, lower.hidden)
    assert all(not layer._forward_pre_hooks for layer in base.module.layers)
    with pytest.raises(ZeroDivisionError):
        build(base, ["a"], cached=False, progress=lambda done, _total: done // 0)
    assert all(not layer._forward_pre_hooks for layer in base.module.layers)
