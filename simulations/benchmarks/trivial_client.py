"""The client of overhead.py: it reads the quickstart's adapter and sends an update of the same size back.

It computes nothing; it stands in a file of its own because Ray's workers import it.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hushrec.common.protocol import Update, read_train, reply

SHAPES = {"core": (64, 64), "offset": (64,), **{f"layer.{number}": (8, 8) for number in range(5)}}
ITEMS = 1682

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Read the request, send zeros."""
    request = read_train(message, SHAPES, ITEMS)
    zeros = {name: np.zeros_like(value) for name, value in request.adapter.items()}
    return reply(message, Update(zeros, 1), "float16")
