"""The sections of the configuration: every setting, its default and what it means.

Immutable values and nothing else; config.py reads them from files and config_checks.py says which go together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hushrec.common.config_checks import ROLES


@dataclass(frozen=True)
class DataConfig:
    """What is recommended to whom."""

    name: str = "movielens-small"  # movielens-small, movielens-100k, movielens-1m, synthetic, recbole, amazon, csv
    folder: str = ""  # where the files are; empty: $HUSHREC_DATA, the package or a checked download
    columns: str = ""  # csv only: "user=uid,item=sku,time=ts,title=name,genres=tags"
    max_users: int = 0  # keep a seeded subset; 0: all
    protocol: Literal["joint", "p1", "p2", "p3"] = "joint"
    seed: int = 42  # of the split and of ties in time
    # Continual training: dates (UTC) at which time windows end, the last one with the data; the rounds are divided over
    # the windows, and in a window a client trains on what it has by its end. Empty: everything from round 1.
    window_ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """The language model and what of it is trained."""

    base: str = "minilm"
    top_layers: int = 1  # K: adapters sit in the top K layers, everything below is computed once
    max_length: int = 32  # tokens per text
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    adapter: Literal["lora", "ffa", "sb"] = "lora"
    r: int = 16
    lora_alpha: float = 32.0
    targets: tuple[str, ...] = ROLES
    head_dim: int = 64
    head_init: Literal["whitening", "random"] = "whitening"
    train_heads: bool = True
    # A trained map between the (then usually fixed) user head and the score: "scale" has head_dim numbers, "full" has
    # head_dim squared. Few numbers drown later in noise.
    head_core: Literal["none", "scale", "full"] = "none"
    # The core's offset: head_dim more numbers that learn which texts are popular, where no count per item is released.
    head_offset: bool = True
    # Where the core starts: the identity, or solved from one (noised) release of co-occurrence statistics.
    core_init: Literal["identity", "statistics"] = "identity"
    core_strength: float = 1.0  # of what the statistics say, against the frozen similarity
    train_mix: bool = True
    recency_decay: float = 0.9  # weight per step back in a history, while training
    history_length: int = 50  # items of a history that are read when recommending
    # What an item's genres and decade say beside its text, by a trained map added to its vector.
    item_features: bool = False
    # What a user's profile text says, by a trained map added to the user's vector at any length of history.
    profiles: bool = False
    # A trained vector per item, beside its text: what behaviour alone tells. Its size grows with the catalogue.
    item_residual: bool = False
    augmentation: int = 0  # public variants of every item text that training reads in turn with the text itself
    # A head for the click model: user and candidate read together, to re-rank what the vectors rank first.
    click: bool = False
    click_history: int = 5  # newest items of a history that it reads beside a candidate
    # The public graph over which item vectors are averaged after training; how strongly is validated.
    graph: Literal["none", "attributes", "text", "kg", "all"] = "none"
    graph_hops: int = 2
    graph_neighbors: int = 10  # edges every item asks for
    # Layers of a small encoder that is taught the trained one's vectors after training, on public texts; 0: none.
    student_layers: int = 0


@dataclass(frozen=True)
class TrainConfig:
    """What one client does in one round."""

    window: int = 20  # items of a record that are read
    negatives: int = 400  # drawn uniformly from the public catalogue
    shared_negatives: bool = True  # one public draw for the round; False: one public draw per record
    local_steps: int = 1
    learning_rate: float = 1.0  # of the local SGD steps
    proximal: float = 0.0  # FedProx term
    click_weight: float = 1.0  # of the click model's loss beside the ranking loss, where model.click is on
    click_negatives: int = 4  # pairs of a record that are no click, with public items
    dropout: float = 0.0  # share of the encoder's outputs that a round leaves out, by public chance
    contrast: float = 0.0  # weight of telling the two halves of one record from public items
    adversarial: float = 0.0  # length of the worst-case perturbation of vectors, as a share of their own; 0: none
    # Debiasing: a target's loss is divided by its released popularity to this power, by at most the cap either way.
    propensity_power: float = 0.0
    propensity_cap: float = 10.0


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part, and how they are run here."""

    shape: Literal["devices", "silos"] = "devices"
    silos: int = 20
    clients_per_round: int = 300  # 0: all
    rounds: int = 30
    execution: Literal["cohort", "one-by-one"] = "cohort"
    wire: Literal["float16", "float32"] = "float16"


@dataclass(frozen=True)
class ServerConfig:
    """What the server does with the mean update."""

    optimizer: Literal["fedavg", "fedavgm", "fedadam"] = "fedadam"
    learning_rate: float = 2e-3
    head_learning_rate: float = 5e-3
    momentum: float = 0.9  # fedavgm; beta_1 of fedadam
    second_momentum: float = 0.99  # beta_2 of fedadam
    snapshots: int = 0  # adapters of the last half of the rounds that are kept, for an ensemble; 0: none
    averaging: float = 0.0  # weight of the running mean of iterates that is evaluated and shipped; 0: the last iterate
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of both rates, down to 0 at the last round
    warmup_rounds: int = 0  # rounds over which both rates first rise linearly
    weight_decay: float = 0.0  # share of the adapters in the encoder that a step of rate 1 takes away
    anchor: float = 0.0  # share of the way back to the adapter of the last window's end that every round takes
    # Before round 1, on public item texts (two variants of one text) or the public item graph alone: no privacy cost.
    warm_start: Literal["none", "text", "attributes", "kg", "all"] = "none"
    warm_start_steps: int = 100
    warm_start_rate: float = 1e-3  # of Adam, falling to 0
    warm_start_keep: float = 10.0  # weight of staying near the vectors before training


@dataclass(frozen=True)
class PrivacyConfig:
    """Every field that changes the guarantee, and nothing else."""

    # gaussian: every client adds its own noise; central: the server, which is trusted, samples users and adds it
    mechanism: Literal["none", "gaussian", "central"] = "gaussian"
    unit: Literal["record", "user"] = "record"
    record_span: Literal["hour", "day", "week"] = "hour"
    max_records: int = 4  # of a device: time bins are folded by their absolute number modulo this
    max_grad_norm: float = 0.5
    noise_multiplier: float = 0.0  # 0: solved from target_epsilon before round 1
    sample_rate: float = 1.0
    denominator: float = 1.0  # public divisor of the noised sum
    target_epsilon: float = 8.0
    target_delta: float = 1e-5
    popularity_noise_multiplier: float = 0.0  # of the one popularity release; 0: no prior is released
    statistics_noise_multiplier: float = 0.0  # of the release that core_init asks for; 0 without rounds: solved


@dataclass(frozen=True)
class EvaluationConfig:
    """Central evaluation."""

    every: int = 5  # rounds between points of the learning curve; 0: only the first and the last
    calibration: float = 0.0  # how strongly lists follow the popularity mix of the own history, in [0, 1]; 0: not
    patience: int = 0  # points of the curve without a better one after which training stops; 0: never
    interests: bool = False  # also evaluate with interests mined from each user's own earlier reviews


@dataclass(frozen=True)
class RunSettings:
    """This run."""

    experiment: str = "custom"
    seed: int = 0
    directory: str = ""
    threads: int = 0  # 0: what torch takes
