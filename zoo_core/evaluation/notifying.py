"""Notifies plugins of a complete run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo_core.plugins import PluginHost
    from zoo_core.runs.directory import RunDirectory
    from zoo_core.runs.record import MetricsRecord, RunRecord


def notify_plugins(
    host: PluginHost, run_dir: RunDirectory, record: RunRecord, metrics: MetricsRecord | None
) -> list[str]:
    """Notify every plugin of a complete run and return a sentence for each that failed."""
    failed = host.evaluation_finished(run_dir.path, record, metrics)
    return [f"Plugin {plugin.plugin_id!r} failed after the evaluation: {plugin.cause}" for plugin in failed]


def is_plugin_failure(warning: str) -> bool:
    """Return True for a sentence of ``notify_plugins``; a run gets it when ``metrics.json`` is written already."""
    return re.match(r"Plugin '[^']*' failed after the evaluation: ", warning) is not None
