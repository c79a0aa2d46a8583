"""Logs every finished run to MLflow; does nothing without a server or if MLflow is not installed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from zoo_core.runs.record import MetricsRecord, RunRecord


@hookimpl
def zoo_evaluation_finished(run_dir: Path, record: RunRecord, metrics: MetricsRecord | None) -> None:
    """Log the run to the server that ``MLFLOW_TRACKING_URI`` names; see ``hookspecs.zoo_evaluation_finished``."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    # The variable may be set for other programs, so a missing MLflow is not worth a warning.
    if not uri or importlib.util.find_spec("mlflow") is None:
        return
    from zoo_mlflow_tracker.tracking import log_run

    log_run(uri, run_dir, record, metrics)
