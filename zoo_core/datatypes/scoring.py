"""Scores by protocol, and the metric that computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from zoo_core.datatypes.predictions import Prediction, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolScore:
    """Scores of one stage under one protocol.

    Attributes:
        values: Named results in ``[0, 1]``, the headline first, e.g. ``{"map": 0.86}``; None when undefined.
        per_class: Headline value per class name; None when undefined, with the reason in ``notes``.
        num_images: Images scored.
        num_objects: Objects that count, per class name (difficult ones do not).
        definition: The protocol's exact rule in a few sentences.
        notes: Limitations of the score: classes without objects, classes not submitted.
    """

    values: Mapping[str, float | None]
    per_class: Mapping[str, float | None]
    num_images: int
    num_objects: Mapping[str, int]
    definition: str
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> float | None:
        """Return the first of ``values``."""
        return next(iter(self.values.values()))


class Metric(Protocol):
    """Computes every protocol of a task in one pass over the predictions.

    Attributes:
        prediction_type: The class that ``update`` takes and the prediction store rebuilds.
        protocol_ids: Keys of the result of ``compute``, the default headline first.
    """

    prediction_type: type[Prediction]
    protocol_ids: tuple[str, ...]

    def update(self, image_ids: Sequence[str], preds: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add a chunk of images; the order of chunks and of images does not change the result."""
        ...

    def compute(self) -> Mapping[str, ProtocolScore]:
        """Return the score under each protocol id."""
        ...

    def suspects(self) -> Sequence[str]:
        """Return likely causes of a score near zero: label order, colour order, box units. May be empty."""
        ...
