"""Faults of what leaves a client, planted in the real code."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord

from hushrec.client import cohort


def replying(patch: pytest.MonkeyPatch, changed: Callable[[Message], None]) -> None:
    real = cohort.reply

    def answered(*args: Any) -> Message:
        changed(message := real(*args))
        return message

    patch.setattr(cohort, "reply", answered)


def loss_leaked(patch: pytest.MonkeyPatch) -> None:
    def changed(message: Message) -> None:
        metrics = message.content["metrics"]
        assert isinstance(metrics, MetricRecord)
        metrics["loss"] = 0.7

    replying(patch, changed)


def number_of_examples_sent(patch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(2)

    def changed(message: Message) -> None:
        metrics = message.content["metrics"]
        assert isinstance(metrics, MetricRecord)
        metrics["num-examples"] = next(numbers)

    replying(patch, changed)


def gradient_norms_sent(patch: pytest.MonkeyPatch) -> None:
    def changed(message: Message) -> None:
        message.content["norms"] = ArrayRecord([np.ones(3, np.float32)])

    replying(patch, changed)


def another_reply_than_committed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cohort, "reply_sha256", lambda record: "0" * 64)
