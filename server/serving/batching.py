"""The one thread of a process that uses the language model: texts of requests that arrive together go through together.

Whatever else a request needs of a model is called there too, in turn, so a model is never used twice at a time. Nothing
is kept.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from hushrec.common.scoring import Floats32

WINDOW = 0.003  # seconds that the first text waits for others
MOST_TEXTS = 64  # of one batch; more gain nothing on a processor
PATIENCE = 60.0  # seconds that a request waits for its texts

Encode = Callable[[list[str]], Floats32]
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class _Asked:
    """Texts to encode, or, without texts, something to call."""

    function: Callable[..., Any]
    texts: list[str] = field(default_factory=list)
    done: Future[Any] = field(default_factory=Future)


class EncoderBatches:
    """Encodes for many requests.

    Args:
        seen: called with the number of texts of each batch.
    """

    def __init__(self, seen: Callable[[int], None] = lambda texts: None) -> None:
        self._seen = seen
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def encode(self, encode: Encode, texts: list[str]) -> Floats32:
        """(n, width) vectors of the texts, by `encode`, which gets those of other requests beside them.

        Raises:
            TimeoutError: not within PATIENCE.
            Exception: what `encode` raises.
        """
        asked = _Asked(encode, texts)
        self._asked.put(asked)
        vectors: Floats32 = asked.done.result(PATIENCE)
        return vectors

    def call(self, function: Callable[[], Result]) -> Result:
        """The function's result, from the encoder's thread; it must not ask this object for anything.

        Raises:
            TimeoutError: not within PATIENCE.
            Exception: what the function raises.
        """
        asked = _Asked(function)
        self._asked.put(asked)
        result: Result = asked.done.result(PATIENCE)
        return result

    def close(self) -> None:
        """Do what is asked for already, then end the thread."""
        self._asked.put(None)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while (first := self._asked.get()) is not None:
            batch, ended = self._gather(first)
            while batch:  # a swap of bundles leaves texts of two models in one batch
                same = [asked for asked in batch if asked.texts and asked.function == batch[0].function] or batch[:1]
                batch = [asked for asked in batch if asked not in same]
                self._answer(same)
            if ended:
                return

    def _gather(self, first: _Asked) -> tuple[list[_Asked], bool]:
        """What is asked within the window, and whether that was the last."""
        batch, texts = [first], len(first.texts)
        deadline = time.monotonic() + WINDOW
        while batch[-1].texts and texts < MOST_TEXTS:
            try:
                asked = self._asked.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if asked is None:
                return batch, True
            batch.append(asked)
            texts += len(asked.texts)
        return batch, False

    def _answer(self, batch: list[_Asked]) -> None:
        texts = [text for asked in batch for text in asked.texts]
        try:
            found = batch[0].function(texts) if texts else batch[0].function()
        except BaseException as error:  # it belongs to the requests, not to this thread
            for asked in batch:
                asked.done.set_exception(error)
            return
        if not texts:
            batch[0].done.set_result(found)
            return
        self._seen(len(texts))
        start = 0
        for asked in batch:
            asked.done.set_result(np.asarray(found[start : start + len(asked.texts)]))
            start += len(asked.texts)
