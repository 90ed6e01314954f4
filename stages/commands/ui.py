"""Open MLflow on the runs so far, at http://127.0.0.1:PORT.

Where MLFLOW_TRACKING_URI is a server's address, the runs are there, and it only says so.
"""

import os
import sys

import click

from stages.core import tracking
from stages.core.stage import main


@click.command(help=__doc__)
@click.option("--port", default=5000, show_default=True)
@main
def cli(port: int) -> None:
    if tracking.uri().startswith(("http://", "https://", "databricks")):
        print(f"the runs are on a server: {tracking.address()}")
        return
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracking.uri()  # every user sees options, by `ps`
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--port", str(port)])
