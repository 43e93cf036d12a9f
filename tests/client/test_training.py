"""Local training: one gradient per record, bounded influence of each, and cohorts equal to clients one by one."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from hushrec.client import private, training
from hushrec.client.losses import record_losses
from hushrec.client.private import NoisedSum, per_row_gradients
from hushrec.client.rows import Row, draw_inputs
from hushrec.client.training import row_gradients, train_cohort
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.errors import PrivacyError
from hushrec.common.protocol import Arrays, TrainRequest
from hushrec.common.workspace import Model, build_model

ITEMS, C, RATE, DENOMINATOR = 40, 0.5, 0.5, 4.0
Pairs = list[tuple[str, Row]]


@dataclass(frozen=True)
class Client:
    """A store without a ledger."""

    client: str
    rows: tuple[Row, ...]
    ledger: None = None


def catalog() -> Catalog:
    """Texts of 1 to 20 words."""
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(list(string.ascii_lowercase), 1 + 7 * n % 20)) for n in range(ITEMS))
    ids = tuple(map(str, range(ITEMS)))
    return Catalog(ids, texts, texts, np.full(ITEMS, -1, np.int32), ((),) * ITEMS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny BERT whose configuration has dropout on."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(words), initializer_range=0.3, hidden_dropout_prob=0.1, **size)
    BertModel(config).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSHREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield str(folder)


Setup = tuple[Model, TrainRequest, RunConfig]


@pytest.fixture(scope="module")
def setup(base: str) -> Callable[..., Setup]:
    """Model, request and configuration, with nonzero adapters scaled by `strength`."""

    def build(strength: float = 1.0, **changes: Any) -> Setup:
        flat = {
            "data.name": "synthetic",
            "model.base": base,
            "model.dtype": "float32",
            "model.head-dim": 6,
            "model.r": 2,
            "train.window": 8,
            "train.negatives": 5,
            "train.shared-negatives": False,
            "train.learning-rate": RATE,
            "privacy.noise-multiplier": 1.0,
            "privacy.max-grad-norm": C,
            "privacy.denominator": DENOMINATOR,
        }
        config = RunConfig.from_flat(flat).replace(**changes)
        model = build_model(config.model, catalog())
        rng = np.random.default_rng(1)
        adapter = {
            name: (strength * (value + rng.normal(0, 0.2, value.shape))).astype(np.float32)
            for name, value in model.recommender.read().items()
        }
        prior = rng.normal(0, 1, ITEMS).astype(np.float32)
        model.recommender.write(adapter)
        return model, TrainRequest(adapter, prior, 1, 77), config

    return build


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here: the configuration refuses to run without noise."""
    monkeypatch.setattr(private, "secret_gaussian", torch.zeros)


def make_rows(lengths: Sequence[int] = (1, 2, 13, 5, 8, 3), first: int = 0) -> tuple[Row, ...]:
    rng = np.random.default_rng(2)
    return tuple(
        Row(f"slot-{first + n}", rng.choice(ITEMS, length, replace=False).astype(np.int32))
        for n, length in enumerate(lengths)
    )


def pairs(rows: Sequence[Row] | None = None, client: str = "a") -> Pairs:
    return [(client, row) for row in (make_rows() if rows is None else rows)]


def flat(arrays: Arrays) -> Tensor:
    return torch.cat([torch.from_numpy(value).flatten() for value in arrays.values()])


def parameters(model: Model) -> list[nn.Parameter]:
    return [parameter for _, parameter in model.recommender.trained()]


def alone(setup: Setup, pair: tuple[str, Row], negatives: list[int] | None = None) -> Tensor:
    """(d,) gradient of one record by plain autograd, with nothing else in the batch."""
    model, request, config = setup
    recommender, train = model.recommender, config.train
    inputs = draw_inputs(
        [pair],
        seed=request.seed,
        window=train.window,
        negatives=train.negatives,
        items=ITEMS,
        shared=train.shared_negatives,
    )
    drawn = inputs.negatives[0].tolist() if negatives is None else negatives
    index = torch.tensor([*inputs.windows[0].tolist(), *drawn])
    encoded = recommender.encoder.encode(model.prefix, index)[None]
    loss = record_losses(
        recommender,
        recommender.user_vectors(encoded[:, : train.window]),
        recommender.item_vectors(encoded),
        torch.from_numpy(request.log_popularity)[index][None],
        torch.from_numpy(inputs.mask),
        torch.tensor([[item in inputs.windows[0][inputs.mask[0] > 0] for item in drawn]]),
        log_correction=math.log(ITEMS / train.negatives),
        decay=config.model.recency_decay,
    )
    gradients = torch.autograd.grad(loss.sum(), parameters(model))
    return torch.cat([gradient.flatten() for gradient in gradients])


def gather(setup: Setup, rows: Pairs) -> Tensor:
    """(rows, d) of the real code, in the order of `rows`."""
    model, request, config = setup
    found = torch.full((len(rows), sum(p.numel() for p in parameters(model))), float("nan"))
    for chosen, gradients in row_gradients(model, request, rows, config):
        found[torch.from_numpy(chosen)] = gradients
    return found


# --- one gradient per record ---

VARIANTS: list[dict[str, Any]] = [
    {"model__adapter": kind, "model__top_layers": k} for kind in ("lora", "ffa", "sb") for k in (1, 2)
]
VARIANTS += [
    {"model__train_heads": False},
    {"model__train_mix": False},
    {"model__train_heads": False, "model__train_mix": False},
    {"model__head_core": "scale", "model__train_heads": False},
    {"model__head_core": "full", "model__train_heads": False},
    {"model__head_core": "full", "model__top_layers": 0},
    {"model__top_layers": 0},
    {"model__top_layers": 3, "model__targets": "query,value"},
    {"train__shared_negatives": True},
    {"train__negatives": 400, "model__adapter": "sb"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_the_gradient_of_each_record_is_that_of_the_record_alone(
    setup: Callable[..., Setup], changes: dict[str, Any]
) -> None:
    made, rows = setup(**changes), pairs()
    if made[2].train.negatives > ITEMS:
        made = (made[0], made[1], made[2].replace(train__negatives=ITEMS))
    found = gather(made, rows)
    assert bool((found[0] == 0).all())  # a record of one item
    for number in range(1, len(rows)):
        expected = alone(made, rows[number])
        assert (found[number] - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 1e-3


@pytest.mark.parametrize("tokens", [1, 400, 10**9])
def test_the_size_of_the_pieces_changes_no_gradient(
    setup: Callable[..., Setup], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rows = setup(), pairs()
    expected = gather(made, rows)
    monkeypatch.setattr(training, "TOKENS_PER_PASS", tokens)
    pieces = [len(chosen) for chosen, _ in row_gradients(*made[:2], rows, made[2])]
    assert (max(pieces) == 1) == (tokens == 1)
    assert (len(pieces) == 1) == (tokens == 10**9)
    assert (gather(made, rows) - expected).norm() <= 1e-5 * expected.norm()


def test_dropout_is_off_while_training_privately(setup: Callable[..., Setup]) -> None:
    made, rows = setup(), pairs()
    dropouts = [module for module in made[0].recommender.modules() if isinstance(module, nn.Dropout)]
    assert any(module.p == 0.1 for module in dropouts)
    expected = gather(made, rows)
    made[0].recommender.train()
    assert torch.equal(gather(made, rows), expected)
    made[0].recommender.eval()


# --- clipping and the bound on each record's influence ---


def release(setup: Setup, clients: Sequence[Client]) -> list[Tensor]:
    """The clipped sums that the real code noises, by client (noise patched to zero)."""
    updates = train_cohort(*setup[:2], clients, setup[2])
    return [flat(update.arrays) * (-DENOMINATOR / RATE) for update in updates]


def test_without_noise_and_clipping_a_private_round_is_plain_sgd_on_the_summed_loss(
    setup: Callable[..., Setup], no_noise: None
) -> None:
    made, rows = setup(privacy__max_grad_norm=1e9), make_rows()
    expected = torch.stack([alone(made, pair) for pair in pairs(rows)]).sum(0)
    (update,) = train_cohort(*made[:2], [Client("a", rows)], made[2])
    found = flat(update.arrays)
    assert update.clients == 1
    assert (found + RATE * expected / DENOMINATOR).norm() <= 1e-5 * found.norm()
    clear = made[2].replace(privacy__mechanism="none")
    mean = flat(train_cohort(*made[:2], [Client("a", rows)], clear)[0].arrays)
    assert (mean * len(rows) - found * DENOMINATOR).norm() <= 1e-5 * (mean * len(rows)).norm()


def influence(summed: Callable[[Pairs], Tensor], rows: Pairs) -> float:
    """Largest change of the sum, in units of C, when one record is removed."""
    whole = summed(rows)
    rests = [summed([pair for place, pair in enumerate(rows) if place != n]) for n in range(len(rows))]
    return max(float((whole - rest).norm()) / C for rest in rests)


def real(setup: Setup) -> Callable[[Pairs], Tensor]:
    return lambda rows: release(setup, [Client("a", tuple(row for _, row in rows))])[0]


KINDS: list[dict[str, Any]] = [{"model__adapter": kind} for kind in ("lora", "ffa", "sb")]
KINDS += [{"model__top_layers": 0}, {"model__head_core": "full"}, {"model__head_core": "scale"}]


@pytest.mark.parametrize("strength", [1.0, 30.0])
@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_removing_any_record_moves_the_sum_by_at_most_the_clipping_norm(
    setup: Callable[..., Setup], no_noise: None, changes: dict[str, Any], strength: float
) -> None:
    made, rows = setup(strength, **changes), pairs()
    gradients = gather(made, rows).norm(dim=1)
    assert gradients.max() > (100 if strength > 1 else 1) * C  # the bound is not met by chance
    assert 0.99 <= influence(real(made), rows) <= 1 + 1e-5


def test_removing_any_user_of_a_silo_moves_the_sum_by_at_most_the_clipping_norm(
    setup: Callable[..., Setup], no_noise: None
) -> None:
    made = setup(5.0, federation__shape="silos", privacy__unit="user")
    assert 0.99 <= influence(real(made), pairs(make_rows([20, 4, 9, 30, 2]))) <= 1 + 1e-5


def test_a_record_moves_its_own_clients_sum_only(setup: Callable[..., Setup], no_noise: None) -> None:
    made = setup()
    first, second = Client("a", make_rows()), Client("b", make_rows([4, 7]))
    both = release(made, [first, second])
    less = release(made, [Client("a", first.rows[1:3]), second])
    assert (both[1] - less[1]).norm() <= 1e-5 * C
    assert (both[0] - less[0]).norm() > 0.1 * C


# --- the check above catches the faults it is there for ---


def clipped(rows: Tensor) -> Tensor:
    made = NoisedSum(rows.shape[1], max_grad_norm=C, noise_multiplier=0.0, denominator=1.0)
    made.add(rows)
    return made.release()


def flattened_candidates(setup: Setup) -> Callable[[Pairs], Tensor]:
    """Each text is its own row for Opacus, so a record is clipped text by text."""
    model, request, config = setup
    recommender = model.recommender

    def summed(rows: Pairs) -> Tensor:
        inputs = training._inputs(rows, request, np.arange(ITEMS), config)
        batch = training._Batch.of(inputs)
        with per_row_gradients(recommender):
            recommender.encoder.layout.rows = batch.index.numel()
            texts = recommender.encoder(*model.prefix.padded(batch.index.flatten()))
            encoded = texts.view(*batch.index.shape, -1)
            users = recommender.user_vectors(encoded[:, : batch.mask.shape[1]])
            losses = training._losses(
                model, users, recommender.item_vectors(encoded), batch, torch.from_numpy(request.log_popularity), config
            )
            with pytest.warns(UserWarning, match="Full backward hook is firing"):  # as flat_rows knows
                losses.sum().backward()
            recommender.encoder.layout.rows = 1
            samples = [parameter.grad_sample.flatten(1) for parameter in parameters(model)]  # type: ignore[attr-defined]
        return clipped(torch.cat(samples, dim=1))

    return summed


def in_batch_negatives(setup: Setup) -> Callable[[Pairs], Tensor]:
    """A record's negatives are the items of the other records."""

    def summed(rows: Pairs) -> Tensor:
        others = [[int(i) for other in rows if other is not pair for i in other[1].items] for pair in rows]
        return clipped(torch.stack([alone(setup, pair, items) for pair, items in zip(rows, others, strict=True)]))

    return summed


def clipped_by_tensor(setup: Setup) -> Callable[[Pairs], Tensor]:
    sizes = [parameter.numel() for parameter in parameters(setup[0])]
    return lambda rows: torch.cat([clipped(part) for part in gather(setup, rows).split(sizes, dim=1)])


def not_clipped(setup: Setup) -> Callable[[Pairs], Tensor]:
    return lambda rows: gather(setup, rows).sum(0)


def drawn_by_position(setup: Setup) -> Callable[[Pairs], Tensor]:
    """A record's negatives depend on its place among the sampled records."""

    def summed(rows: Pairs) -> Tensor:
        return clipped(gather(setup, [("a", Row(str(place), row.items)) for place, (_, row) in enumerate(rows)]))

    return summed


FAULTS = [flattened_candidates, in_batch_negatives, clipped_by_tensor, not_clipped, drawn_by_position]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_influence_check_catches_planted_faults(
    setup: Callable[..., Setup], fault: Callable[[Setup], Callable[[Pairs], Tensor]], no_noise: None
) -> None:
    made, rows = setup(3.0, model__train_heads=False, model__train_mix=False), pairs(make_rows([20, 2, 2, 2]))
    assert influence(real(made), rows) <= 1 + 1e-5
    assert influence(fault(made), rows) > 1.05


# --- what a hostile server could send ---


def test_a_record_without_a_finite_gradient_is_answered_with_noise_like_any_other(
    setup: Callable[..., Setup], no_noise: None
) -> None:
    model, request, config = setup(model__head_init="random")
    rows = make_rows([3, 4, 5])
    wanted = int(rows[1].items[2])
    # The prior makes the score of one item overflow: only records that read the item get a gradient of NaN.
    prior = request.log_popularity.copy()
    prior[wanted] = 3e38
    adapter = {**request.adapter, "mix.weight": np.array([[1.0, 3e38]], np.float32)}
    quiet = [row for row in rows if wanted not in row.items]
    asked = replace(request, adapter=adapter, log_popularity=prior)
    made = (model, asked, config.replace(train__negatives=1))
    model.recommender.write(adapter)
    bad = ~torch.isfinite(gather(made, pairs(rows))).all(dim=1)
    assert bool(bad[1])
    (found,) = release(made, [Client("a", rows)])
    assert bool(torch.isfinite(found).all())
    kept = tuple(row for row, broken in zip(rows, bad, strict=True) if not broken)
    (expected,) = release(made, [Client("a", kept)])
    assert (found - expected).norm() <= 1e-5 * C
    assert len(kept) <= len(quiet)


def test_without_a_noise_multiplier_nothing_is_released(setup: Callable[..., Setup]) -> None:
    made = setup(privacy__noise_multiplier=0.0)
    with pytest.raises(PrivacyError, match="no noise to add"):
        train_cohort(*made[:2], [Client("a", make_rows())], made[2])


# --- noise ---


def test_each_client_adds_its_own_noise_of_the_promised_spread_every_time(setup: Callable[..., Setup]) -> None:
    made = setup(privacy__noise_multiplier=3.0)
    quiet = made[2].replace(privacy__noise_multiplier=1e-9)
    clients = [Client("a", make_rows()), Client("b", ()), Client("c", make_rows([2, 3]))]
    torch.manual_seed(3)
    first = [flat(update.arrays) for update in train_cohort(*made[:2], clients, made[2])]
    torch.manual_seed(3)
    second = [flat(update.arrays) for update in train_cohort(*made[:2], clients, made[2])]
    means = [flat(update.arrays) for update in train_cohort(*made[:2], clients, quiet)]
    noises = [noisy - mean for noisy, mean in zip([*first, *second], means * 2, strict=True)]
    for number, noise in enumerate(noises):
        assert stats.kstest(noise.numpy(), "norm", args=(0.0, RATE * 3.0 * C / DENOMINATOR)).pvalue > 1e-4
        for other in noises[:number]:
            assert abs(np.corrcoef(noise, other)[0, 1]) < 5 / math.sqrt(len(noise))
    assert means[1].norm() < 1e-6  # the client without a row sent noise alone


def test_a_poisson_batch_that_drew_nobody_is_answered_with_noise(
    setup: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setup(privacy__sample_rate=0.5)
    monkeypatch.setattr(training, "poisson_choice", lambda rows, rate: [])
    (update,) = train_cohort(*made[:2], [Client("a", make_rows())], made[2])
    assert update.clients == 1
    noise = flat(update.arrays)
    assert stats.kstest(noise.numpy(), "norm", args=(0.0, RATE * C / DENOMINATOR)).pvalue > 1e-4


# --- cohorts, local steps and what is left behind ---


def cohort() -> list[Client]:
    return [Client("a", make_rows()), Client("b", ()), Client("c", make_rows([2, 9])), Client("d", make_rows([1]))]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_without_privacy_a_cohort_adds_up_to_its_clients_one_by_one(
    setup: Callable[..., Setup], steps: int, shared: bool
) -> None:
    made = setup(privacy__mechanism="none", train__local_steps=steps, train__shared_negatives=shared)
    together = train_cohort(*made[:2], cohort(), made[2])
    single = [train_cohort(*made[:2], [client], made[2])[0] for client in cohort()]
    assert sum(update.clients for update in together) == len(cohort())
    total = torch.stack([flat(update.arrays) for update in together if update.clients]).sum(0)
    expected = torch.stack([flat(update.arrays) for update in single]).sum(0)
    assert (total - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("steps", [1, 3])
def test_with_privacy_each_client_of_a_cohort_sends_what_it_would_alone(
    setup: Callable[..., Setup], no_noise: None, steps: int
) -> None:
    made = setup(train__local_steps=steps)
    together = train_cohort(*made[:2], cohort(), made[2])
    for client, update in zip(cohort(), together, strict=True):
        expected = flat(train_cohort(*made[:2], [client], made[2])[0].arrays)
        assert update.clients == 1
        assert (flat(update.arrays) - expected).norm() <= 1e-5 * max(1.0, float(expected.norm()))


@pytest.mark.parametrize("proximal", [0.0, 0.3])
def test_local_steps_follow_each_other_and_are_pulled_back_to_the_start(
    setup: Callable[..., Setup], proximal: float
) -> None:
    made = setup(privacy__mechanism="none", train__local_steps=2, train__proximal=proximal)
    model, request, config = made
    seeds: list[int] = []
    original, client = training._clear_sum, Client("a", make_rows())

    def recorded(model: Model, request: TrainRequest, *rest: Any) -> Arrays:
        seeds.append(request.seed)
        return original(model, request, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_clear_sum", recorded)
        (found,) = train_cohort(model, request, [client], config)
    assert len(set(seeds)) == 2  # each step draws anew
    one = config.replace(train__local_steps=1, train__proximal=0.0)
    adapter = dict(request.adapter)
    for seed in seeds:
        (step,) = train_cohort(model, replace(request, adapter=adapter, seed=seed), [client], one)
        for name, start in request.adapter.items():
            adapter[name] = adapter[name] + step.arrays[name] - RATE * proximal * (adapter[name] - start)
    expected = flat({name: adapter[name] - start for name, start in request.adapter.items()})
    assert (flat(found.arrays) - expected).norm() <= 1e-5 * expected.norm()


def left_over(model: Model) -> list[list[str]]:
    """Every attribute and hook of every module and parameter."""
    found = []
    for module in model.recommender.modules():
        hooks = [name for name, value in vars(module).items() if "hook" in name and value and value is not True]
        found.append([*sorted(vars(module)), *hooks, f"training={module.training}"])
    for parameter in model.recommender.parameters():
        found.append([*sorted(vars(parameter)), f"grad={parameter.grad is not None}"])
    return found


def test_a_private_round_leaves_no_trace_and_a_second_one_works(setup: Callable[..., Setup], no_noise: None) -> None:
    made = setup()
    before, clear = left_over(made[0]), made[2].replace(privacy__mechanism="none")
    expected = flat(train_cohort(*made[:2], cohort(), clear)[0].arrays)
    first = release(made, cohort())
    assert left_over(made[0]) == before
    assert made[0].recommender.encoder.layout.rows == 1
    second = release(made, cohort())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(flat(train_cohort(*made[:2], cohort(), clear)[0].arrays), expected)
    assert left_over(made[0]) == before


def test_a_failure_half_way_leaves_no_trace(setup: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup()
    before = left_over(made[0])

    def failing(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(NoisedSum, "add", failing)
        with pytest.raises(RuntimeError) as caught:
            train_cohort(*made[:2], cohort(), made[2])
    assert caught.traceback  # still alive, with every frame it holds
    assert left_over(made[0]) == before


def test_an_update_starts_from_the_adapter_that_was_sent(setup: Callable[..., Setup]) -> None:
    made = setup(privacy__mechanism="none")
    expected = flat(train_cohort(*made[:2], cohort(), made[2])[0].arrays)
    made[0].recommender.write({name: value * 0 - 1 for name, value in made[1].adapter.items()})
    assert torch.equal(flat(train_cohort(*made[:2], cohort(), made[2])[0].arrays), expected)


def test_a_client_without_rows_sends_zeros_without_privacy(setup: Callable[..., Setup]) -> None:
    made = setup(privacy__mechanism="none")
    (update,) = train_cohort(*made[:2], [Client("a", ())], made[2])
    assert {name: value.shape for name, value in update.arrays.items()} == made[0].shapes
    assert not flat(update.arrays).any()


def test_flat_rows_are_laid_out_as_the_named_arrays_are(setup: Callable[..., Setup], no_noise: None) -> None:
    made = setup(privacy__max_grad_norm=1e9)
    (update,) = train_cohort(*made[:2], [Client("a", make_rows([6]))], made[2])
    expected = alone(made, pairs(make_rows([6]))[0]).split([p.numel() for p in parameters(made[0])])
    for (name, value), part in zip(update.arrays.items(), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(value).flatten() * (-DENOMINATOR / RATE), part, msg=name)
