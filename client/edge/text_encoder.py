"""The exported language model on a device: texts in, one unit vector each out, by ONNX Runtime on one core.

It loads nothing before the first text. Texts stay in memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.scoring import Floats32

TOKENS_PER_PASS = 2048  # bounds the activations of a pass to some 30 MB
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "vectors"


class OnnxTextEncoder:
    """An encoder of `export.write_onnx` with its tokenizer.

    Args:
        model: path of the .onnx file, or its content.
        tokenizer: content of tokenizer.json.
        threads: of ONNX Runtime; 0 = one per core.
    """

    def __init__(self, model: Path | bytes, tokenizer: bytes, *, threads: int = 1) -> None:
        self._model, self._tokens, self._threads = model, tokenizer, threads

    def encode(self, texts: Sequence[str], max_length: int, *, together: bool = False) -> Floats32:
        """(n, width) unit vectors.

        Args:
            max_length: tokens kept per text.
            together: whether texts of one length share a pass. Quantised activations are scaled per pass, so that a
                text's vector then depends, slightly, on the others; alone it is what a device computes.
        """
        tokenizer = self._tokenizer
        tokenizer.enable_truncation(max_length)
        ids = [np.array(found.ids, dtype=np.int64) for found in tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
        vectors: list[Floats32 | None] = [None] * len(ids)
        while order:
            length = len(ids[order[0]])
            most = max(TOKENS_PER_PASS // length, 1) if together else 1
            same = [text for text in order[:most] if len(ids[text]) == length]
            order = order[len(same) :]
            tokens = np.stack([ids[text] for text in same])
            found = self._session.run([OUTPUT], dict(zip(INPUTS, (tokens, np.ones_like(tokens)), strict=True)))[0]
            for text, vector in zip(same, found, strict=True):
                vectors[text] = vector
        return np.array(vectors, dtype=np.float32).reshape(len(ids), -1)

    @cached_property
    def _session(self) -> Any:
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
        options.enable_cpu_mem_arena = False  # it keeps the memory of the longest text ever seen
        options.log_severity_level = 3
        source = self._model if isinstance(self._model, bytes) else str(self._model)
        try:
            return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises errors of its own, one per status
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise BundleError(f"cannot load the exported encoder: {first}; export it again") from error

    @cached_property
    def _tokenizer(self) -> Any:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizer = _import("tokenizers").Tokenizer.from_str(self._tokens.decode())
        tokenizer.no_padding()
        return tokenizer


def _import(name: str) -> Any:
    """onnxruntime or tokenizers, which only texts need."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"reading a text on a device needs {name}: pip install 'hushrec[edge]'") from error
