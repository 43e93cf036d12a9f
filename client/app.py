"""The Flower ClientApp: wiring only."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hushrec.client.cohort import answer_alone, answer_query, answer_train

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local training."""
    return answer_alone(answer_train, message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """The client's share of the popularity release."""
    return answer_alone(answer_query, message, context)
