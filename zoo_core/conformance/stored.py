"""Sends predictions through the store of a run, as every evaluation does before it scores them."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckFailedError
from zoo_core.conformance.predictions import random_outputs
from zoo_core.datatypes import ImageSize
from zoo_core.runs.predictions import Chunk, PredictionStore

if TYPE_CHECKING:
    from zoo_core.conformance.subject import Subject
    from zoo_core.datatypes import Prediction

_SIZES = (ImageSize(width_px=320, height_px=200), ImageSize(width_px=90, height_px=120))


def check_stored(subject: Subject) -> str:
    """Predictions of images of different sizes come back from a run directory with the same shapes, dtypes, values."""
    nothing = tuple(torch.full_like(output, -100.0) for output in subject.outputs)
    written: list[Prediction] = []
    for outputs in (subject.outputs, nothing, *islice(random_outputs(subject), 6)):
        written += subject.decode(outputs, [_SIZES[index % 2] for index in range(len(subject.inputs))])
    ids = tuple(f"image {index}" for index in range(len(written)))
    with tempfile.TemporaryDirectory() as folder:
        store = PredictionStore(Path(folder), subject.metric().prediction_type)
        store.write(Chunk(index=0, image_ids=ids, predictions=tuple(written)))
        (chunk,) = store
    for image_id, one, other in zip(ids, written, chunk.predictions, strict=True):
        read = other.arrays()
        for name, array in one.arrays().items():
            same = array.dtype == read[name].dtype and np.array_equal(array, read[name], equal_nan=True)
            if not same:
                raise CheckFailedError(
                    f"The field {name!r} of {image_id} is a {array.dtype} array of shape {array.shape}; the run "
                    f"directory gives back {read[name].dtype} of shape {read[name].shape}.",
                    fix="report this: zoo-eval has to store what decode returns, or to refuse it.",
                )
    return f"{len(written)} predictions come back unchanged"


CHECKS = (Check(name="predictions survive the run directory", make=check_stored),)
