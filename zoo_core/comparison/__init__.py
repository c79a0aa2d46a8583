"""What changed between two stages, image by image: boxes lost, gained and moved, or classes."""

from zoo_core.comparison.detections import (
    MATCH_IOU,
    MOVED_IOU,
    SCORE_THRESHOLD,
    ImageChanges,
    StageChanges,
    image_changes,
    most_changed,
    objects_found,
    stage_changes,
)

__all__ = [
    "MATCH_IOU",
    "MOVED_IOU",
    "SCORE_THRESHOLD",
    "ImageChanges",
    "StageChanges",
    "image_changes",
    "most_changed",
    "objects_found",
    "stage_changes",
]
