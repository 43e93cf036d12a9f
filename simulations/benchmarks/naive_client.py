"""The client that against_naive.py compares with: Flower, peft and Opacus put together as their guides say.

It shares hushrec's loss, heads and draws, so that its result can be compared, and none of its speed: every message
takes every text of every record through the tokenizer and all layers in float32. It is correct: the texts of a record
are one row, clipped as a whole. A worker process builds its model once, which favours this side.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from hushrec.client.losses import Record, record_losses
from hushrec.client.rows import device_rows, draw_inputs
from hushrec.common.base_model import PACKAGED, load_base_model, packaged_path
from hushrec.common.config import RunConfig
from hushrec.common.encoder import TextEncoder
from hushrec.common.recommender import Recommender
from hushrec.common.workspace import open_dataset, open_split

app = ClientApp()
# peft's names of BERT's modules by hushrec's names of their roles
_MODULES = {
    "query": "attention.self.query",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}


class RowsFirst(nn.Module):
    """A linear layer that sees (rows, tokens, in) instead of (texts, length, in), so that Opacus sums over a record."""

    def __init__(self, linear: nn.Module, encoder: PeftEncoder) -> None:
        super().__init__()
        self.linear = linear
        self._encoder = [encoder]  # in a list, which is no submodule

    @property
    def weight(self) -> Tensor:
        """peft reads its type."""
        return cast(Tensor, self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x.reshape(self._encoder[0].rows, -1, x.shape[-1]))
        return result.reshape(*x.shape[:-1], -1)


class PeftEncoder(nn.Module):
    """The whole sentence encoder in float32 with peft's LoRA in its top layers."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel

        base, model = load_base_model(config.model.base), config.model
        source = packaged_path() if model.base == PACKAGED else model.base
        # No dropout, so that both sides compute the same; attention as the library chooses it.
        whole = AutoModel.from_pretrained(source, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        names = "|".join(re.escape(_MODULES[role]) for role in model.targets)
        numbers = "|".join(str(base.layers - 1 - k) for k in range(model.top_layers))
        lora = LoraConfig(
            r=model.r,
            lora_alpha=int(model.lora_alpha),
            target_modules=rf".*\.layer\.({numbers})\.({names})",
            lora_dropout=0.0,
        )
        self.width, self.rows, self.max_length, self.tokenizer = base.width, 1, model.max_length, base.tokenizer
        self.language_model = get_peft_model(whole.float(), lora)
        for module in list(self.language_model.modules()):
            for factor in ("lora_A", "lora_B"):
                if isinstance(layers := getattr(module, factor, None), nn.ModuleDict) and "default" in layers:
                    layers["default"] = RowsFirst(layers["default"], self)

    def forward(self, texts: list[str], rows: int) -> Tensor:
        """`texts` of all rows, row after row -> (texts, width) unit vectors."""
        self.rows = rows
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        hidden = self.language_model(**tokens).last_hidden_state
        weight = tokens["attention_mask"][..., None].float()
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


@lru_cache(maxsize=1)
def build_naive(config: RunConfig) -> tuple[Any, dict[str, nn.Parameter]]:
    """The model under Opacus' hooks, and its trained tensors by hushrec's names, sorted."""
    model = config.model
    base = load_base_model(model.base)
    none = TextEncoder(base, top_layers=0, roles=(), adapter="lora", r=1, lora_alpha=1.0, dtype=torch.float32)
    recommender = Recommender(
        none,
        model.head_dim,
        train_heads=model.train_heads,
        train_mix=model.train_mix,
        head_core=model.head_core,
        head_offset=model.head_offset,
    )
    recommender.add_module("encoder", PeftEncoder(config))
    below = base.layers - model.top_layers
    named = {_hushrec_name(name, below): parameter for name, parameter in recommender.trained()}
    return GradSampleModule(recommender, loss_reduction="sum").train(), dict(sorted(named.items()))


def _hushrec_name(name: str, below: int) -> str:
    """encoder.language_model.base_model.model.encoder.layer.5.X.lora_A.default.linear.weight ->
    encoder.top.encoder.layer.0.X.lora_A.weight"""
    found = re.fullmatch(
        r"encoder\.language_model\.base_model\.model\.(.*)\.(\d+)\.(.*)\.default\.linear\.weight", name
    )
    return name if found is None else f"encoder.top.{found[1]}.{int(found[2]) - below}.{found[3]}.weight"


def record_gradients(recommender: Any, config: RunConfig, partition: int, seed: int) -> None:
    """Leave one gradient per record of this client in `grad_sample` of every trained tensor."""
    train, catalog = config.train, open_dataset(config.data).catalog
    history = open_split(config.data).train[partition]
    rows = device_rows(history, config.privacy.record_span, config.privacy.max_records)
    drawn = draw_inputs(
        [(f"device-{partition}", row) for row in rows],
        seed=seed,
        window=train.window,
        negatives=train.negatives,
        items=len(catalog.texts),
        shared=train.shared_negatives,
    )
    index = np.concatenate([drawn.windows, drawn.negatives], axis=1)
    inner = recommender._module
    texts = [catalog.texts[item] for item in index.ravel().tolist()]
    encoded = inner.encoder(texts, len(rows)).view(*index.shape, -1)
    losses = record_losses(
        inner,
        inner.user_vectors(encoded[:, : train.window]),
        inner.item_vectors(encoded),
        Record(
            torch.zeros(index.shape),
            torch.from_numpy(drawn.mask),
            torch.from_numpy(drawn.twins),
            log_correction=float(np.log(len(catalog.texts) / min(train.negatives, len(catalog.texts)))),
            decay=config.model.recency_decay,
        ),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        torch.autograd.backward(losses.sum())


@app.train()
def train(message: Message, context: Context) -> Message:
    """One local step: weights in, clipped and noised step by Opacus, weights out."""
    settings = message.content["config"]
    assert isinstance(settings, ConfigRecord)
    flat = {key: value for key, value in settings.items() if isinstance(value, str | int | float | bool)}
    config = RunConfig.from_flat({key: value for key, value in flat.items() if "." in key})
    recommender, named = build_naive(config)
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    with torch.no_grad():
        for parameter, value in zip(named.values(), arrays.to_numpy_ndarrays(), strict=True):
            parameter.copy_(torch.from_numpy(value.copy()))
    privacy = config.privacy
    optimizer = DPOptimizer(
        torch.optim.SGD(named.values(), lr=config.train.learning_rate),
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.max_grad_norm,
        expected_batch_size=privacy.denominator,
    )
    optimizer.zero_grad()
    partition, seed = context.node_config["partition-id"], flat["seed"]
    assert isinstance(partition, int)
    assert isinstance(seed, int)
    record_gradients(recommender, config, partition, seed)
    optimizer.step()
    optimizer.zero_grad()
    trained = ArrayRecord([parameter.detach().numpy() for parameter in named.values()])
    return Message(RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
