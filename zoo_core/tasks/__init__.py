"""Detection and classification, declared through the hook ``zoo_task`` as a plugin declares its own task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from zoo_core.datatypes import Task

BUILT_IN = ("classification", "detection")


@hookimpl
def zoo_task(task: str) -> Task | None:
    """See ``zoo_core.hookspecs``; nothing heavy is imported before a task is asked for."""
    if task == "detection":
        from zoo_core.tasks.detection import DETECTION

        return DETECTION
    if task == "classification":
        from zoo_core.tasks.classification import CLASSIFICATION

        return CLASSIFICATION
    return None
