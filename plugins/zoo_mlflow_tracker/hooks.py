"""Told of every finished run; does nothing where no server is named or MLflow is not installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_core.hookspecs import hookimpl


@hookimpl
def zoo_evaluation_finished(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Log the run to the server that ``MLFLOW_TRACKING_URI`` names; see ``hookspecs.zoo_evaluation_finished``."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    # The variable may be there for other programs: without MLflow there is nothing to say.
    if not uri or importlib.util.find_spec("mlflow") is None:
        return
    from zoo_mlflow_tracker.tracking import log_run

    log_run(uri, run_dir, record)
