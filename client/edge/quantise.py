"""Int8 forms of an exported encoder and the choice among them: the smallest that keeps the ranking.

Dynamic quantisation of ONNX Runtime: weights int8 in the file, activations scaled as they come. The choice looks at
what ranking_check.py measured; where that is on public texts, it costs no privacy, and where it is on a run's
validation cases, it is made by whoever holds them anyway.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.client.edge.ranking_check import Figures, RankingCheck
from hushrec.common.errors import ConfigError

MOST_LOSS = 0.01  # of the ranking figure, against the float32 encoder of the same shape
LEFT_OUT = (1 / 12, 1 / 6, 1 / 3, 1 / 2)  # shares of the products that stay float32, the most harmful first


@dataclass(frozen=True)
class Scheme:
    """One way to quantise.

    Attributes:
        per_channel: one scale per output instead of per matrix.
        reduce_range: 7 bits of weight, for processors whose 8-bit products saturate (AVX2 without VNNI).
        embeddings: the tables of words and positions too.
        left_out: names of products that stay float32.
    """

    name: str
    per_channel: bool = False
    reduce_range: bool = False
    embeddings: bool = True
    left_out: tuple[str, ...] = ()


WHOLE = (
    Scheme("int8"),
    Scheme("int8 per channel", per_channel=True),
    Scheme("int8 per channel, 7 bits", per_channel=True, reduce_range=True),
)
PRODUCTS = Scheme("int8 per channel, embeddings float32", per_channel=True, embeddings=False)


def quantised(content: bytes, scheme: Scheme, only: tuple[str, ...] = ()) -> bytes:
    """The ONNX model with int8 weights.

    Args:
        content: the float32 model.
        only: names of the products to quantise; empty = all.
    """
    onnx, quantization = _libraries()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        out = Path(folder) / "quantised.onnx"
        quantization.quantize_dynamic(
            onnx.load_from_string(content),
            out,
            op_types_to_quantize=["MatMul", "Gather"] if scheme.embeddings else ["MatMul"],
            per_channel=scheme.per_channel,
            reduce_range=scheme.reduce_range,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=list(only),
            nodes_to_exclude=list(scheme.left_out),
        )
        return out.read_bytes()


def weight_products(content: bytes) -> list[str]:
    """Names of the products with a stored matrix, in the order of the graph."""
    graph = _libraries()[0].load_from_string(content).graph
    stored = {initializer.name for initializer in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and stored & set(node.input)]


def choose(
    content: bytes, reference: Figures, check: RankingCheck, step: Callable[[str], None]
) -> tuple[bytes, str, list[Figures]]:
    """Try the schemes, smallest first, until one loses at most MOST_LOSS.

    Args:
        content: the float32 model; reference: its figures.
        step: called with what is tried.
    Returns:
        The chosen model, its name (the reference's where none passed), and the figures of all that were tried.
    """
    tried: list[Figures] = []
    for name, small in _forms(content, check, step):
        step(f"measuring {name}")
        tried.append(figures := check.measure(name, small))
        if figures.loss(reference) <= MOST_LOSS:
            return small, name, tried
    return content, reference.name, tried


def _forms(content: bytes, check: RankingCheck, step: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """The forms, smallest first: all in int8, then those that leave something out, made only when it comes to them."""
    for scheme in WHOLE:  # equal in size but for the scales
        yield scheme.name, quantised(content, scheme)
    step("measuring which products int8 harms most")
    schemes = [PRODUCTS, *_partial(content, check)]
    forms = [(scheme.name, quantised(content, scheme)) for scheme in schemes]
    yield from sorted(forms, key=lambda form: len(form[1]))


def _partial(content: bytes, check: RankingCheck) -> Iterator[Scheme]:
    """Schemes that leave out the products whose int8 form, alone, moves the asking texts' vectors most."""
    exact = check.encode(content)
    harm = {}
    for name in weight_products(content):
        alone = check.encode(quantised(content, Scheme("", per_channel=True, embeddings=False), only=(name,)))
        harm[name] = float(np.square(alone - exact).sum())
    worst = sorted(harm, key=lambda name: -harm[name])
    for share in LEFT_OUT:
        number = max(round(share * len(worst)), 1)
        name = f"int8 per channel, {number} of {len(worst)} products float32"
        yield Scheme(name, per_channel=True, left_out=tuple(worst[:number]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that onnxruntime writes to the root logger at every call."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _libraries() -> tuple[Any, Any]:
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise ConfigError(f"exporting needs {error.name}: pip install 'hushrec[edge]'") from error
    return onnx, quantization
