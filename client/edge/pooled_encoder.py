"""The adapted encoder as one module, tokens in and vectors out, with the adapters folded into the weights; to ONNX.

It is for export only: training and the catalogue use common/encoder.py, which keeps adapters apart.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hushrec.client.edge.text_encoder import INPUTS, OUTPUT, OnnxTextEncoder
from hushrec.common.adapters import AdaptedLinear
from hushrec.common.base_model import BaseModel
from hushrec.common.encoder import layer_list
from hushrec.common.errors import ConfigError
from hushrec.common.workspace import Model

OPSET = 17  # the first with LayerNormalization as one operator; ONNX Runtime 1.12 and later read it
_CLOSE = 1e-4  # of components of unit vectors


class PooledEncoder(nn.Module):
    """(n, length) token ids and mask -> (n, width) unit vectors, all in float32.

    Args:
        module: a `transformers` encoder with `count` layers; owned by this object.
    """

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__()
        self.module, self.layers = module, layer_list(module, count)[1]
        config: Any = module.config
        self.heads = int(config.num_attention_heads)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask[..., None].float()
        # As a bias per key: from a mask of zeros and ones, transformers decides in Python, which a trace cannot record.
        bias = (1.0 - weight[..., 0])[:, None, None, :] * torch.finfo(torch.float32).min
        states = self.module(input_ids=input_ids, attention_mask=bias).last_hidden_state
        return F.normalize((states * weight).sum(1) / weight.sum(1).clamp(min=1), dim=-1)


def merged_encoder(model: Model) -> PooledEncoder:
    """The whole language model in float32 with the recommender's present adapter in its weights."""
    base = model.base
    pooler = getattr(base.module, "pooler", None)
    module = copy.deepcopy(base.module)
    if pooler is not None:
        module.register_module("pooler", None)  # not used: texts are mean-pooled
    encoder = PooledEncoder(module, base.layers)
    if (top := model.recommender.encoder.top) is not None:
        count = model.config.top_layers
        adapted = layer_list(top, count)[1]
        for frozen, layer in zip(list(encoder.layers)[base.layers - count :], adapted, strict=True):
            for name, part in layer.named_modules():
                if isinstance(part, AdaptedLinear):
                    linear: Any = frozen.get_submodule(name)
                    linear.weight.data += part.change()
    return encoder


def token_batches(
    base: BaseModel, texts: Sequence[str], max_length: int, size: int = 32
) -> list[tuple[Tensor, Tensor]]:
    """(ids, mask) of the texts, padded to the longest of each `size`."""
    batches = []
    for start in range(0, len(texts), size):
        found = base.tokenizer(
            list(texts[start : start + size]),
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="pt",
        )
        batches.append((found["input_ids"], found["attention_mask"]))
    return batches


def tokenizer_json(base: BaseModel) -> bytes:
    """The tokenizer as the `tokenizers` library reads it.

    Raises:
        ConfigError: a tokenizer without that form.
    """
    backend = getattr(base.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"the tokenizer of {base.name!r} has no tokenizer.json form, so it cannot run on a device")
    backend.no_padding()
    return str(backend.to_str()).encode()


def write_onnx(encoder: PooledEncoder, base: BaseModel, texts: Sequence[str], max_length: int) -> bytes:
    """The encoder as an ONNX model, checked against itself on `texts`, padded and alone.

    Raises:
        ConfigError: the architecture does not survive the export.
    """
    ids, mask = token_batches(base, texts, max_length, len(texts))[0]
    axes = {name: {0: "texts", 1: "length"} for name in INPUTS} | {OUTPUT: {0: "texts"}}
    try:
        # The tracing exporter is deprecated but needs nothing beside torch, and the graph is checked below.
        with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
            warnings.simplefilter("ignore")
            path = Path(scratch) / "encoder.onnx"
            torch.onnx.export(
                encoder,
                (ids, mask),
                path,
                dynamo=False,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_axes=axes,
                opset_version=OPSET,
            )
            content, expected = path.read_bytes(), encoder(ids, mask).numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"cannot export {type(encoder.module).__name__} to ONNX: {first}") from error
    found = OnnxTextEncoder(content, tokenizer_json(base)).encode(texts, max_length)
    if found.shape != expected.shape or float(np.abs(found - expected).max()) > _CLOSE:
        raise ConfigError(f"{type(encoder.module).__name__} does not compute the same once exported to ONNX")
    return content
