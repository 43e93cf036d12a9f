"""The Flower ServerApp: wiring only."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hushrec.common.config import RunConfig
from hushrec.server.rounds import run_rounds

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train; the checkpoint, the rounds and the ledger are in the run directory afterwards."""
    values = {key: value for key, value in context.run_config.items() if not isinstance(value, bytes)}
    run_rounds(grid, RunConfig.from_flat(values))
