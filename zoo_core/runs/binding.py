"""Binds each chunk of predictions to what it was computed with, so that a chunk from elsewhere is noticed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.runs.record import RunRecord


def stage_binding(record: RunRecord, stage: str) -> str | None:
    """Return a digest of what the predictions of a stage depend on; every chunk of the stage contains it.

    It covers the run's conditions (program, libraries, kernels, images), the stage's name, batch size and runtime, and
    its network with the encodings. It is the same for a resumed or repeated run, whose chunks have the same bytes.

    Args:
        record: Of the run.
        stage: Name of a stage.

    Returns:
        64 hexadecimal digits; None if the stage has no record, or one of an earlier version.
    """
    own = record.stages.get(stage)
    if own is None or own.network_sha256 is None:
        return None
    content = {
        "conditions": record.conditions("predict"),
        "stage": stage,
        "batch_size": own.batch_size,
        "backend": own.runtime,  # the name in schema 3, whose chunks keep their digests
        "network": own.network_sha256,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
