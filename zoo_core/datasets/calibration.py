"""Draws the calibration images and keeps evaluated images out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo_core.datasets.pictures import Twin
from zoo_core.errors import DataError

_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationDraw:
    """The drawn images, and the facts about the draw that belong to the result.

    Attributes:
        ids: In the order drawn, which is the order of calibration. A smaller draw with the same seed is a prefix of it.
        requested: Number of images requested.
        available: Number of images to choose from; if it is below ``requested``, all were taken.
        overlap: Those of ``ids`` that are evaluated too, by id or by content, sorted. Not empty only if that was
            allowed; the result must then be marked.
        alike: Those that look like an evaluated image and are not certainly the same, sorted; likewise.
    """

    ids: tuple[str, ...]
    requested: int
    available: int
    overlap: tuple[str, ...]
    alike: tuple[str, ...] = ()


def draw_calibration(
    dataset_ids: Iterable[str],
    size: int,
    seed: int,
    *,
    evaluated_ids: Collection[str],
    same_pictures: Callable[[Sequence[str]], Mapping[str, Twin]] | None = None,
    allow_overlap: bool = False,
) -> CalibrationDraw:
    """Draw calibration images at random, none of them evaluated.

    The draw depends only on the set of ids, ``size`` and ``seed``: not on the order of a split file, and not on
    numpy's version, since it uses PCG64's raw output, which numpy keeps stable (NEP 19), and no distribution.

    Args:
        dataset_ids: Every id of the calibration split.
        size: Number of images to draw, 1 or more; if there are fewer, all are taken.
        seed: 0 or more.
        evaluated_ids: The evaluated split's ids, if both splits share one numbering, as the splits of a VOC folder do;
            empty if equal ids may mean different images. Pass the whole split even when a run is limited to a part of
            it.
        same_pictures: Given the drawn ids, returns those whose picture is evaluated under whatever id; see
            ``pictures.same_pictures``.
        allow_overlap: Record an overlap instead of refusing it.

    Raises:
        DataError: The split is empty, ``size`` or ``seed`` is out of range, or drawn images are evaluated too
            without ``allow_overlap``.
    """
    pool = sorted(set(dataset_ids))
    _check(size, seed, len(pool))
    # A random key for each id; drawing means taking the ids with the smallest keys.
    keys = np.random.PCG64(seed).random_raw(len(pool))
    ids = tuple(pool[index] for index in np.argsort(keys, kind="stable")[:size])
    evaluated = set(evaluated_ids)
    twins = {} if same_pictures is None else dict(same_pictures(ids))
    twins |= {image_id: Twin(reason="", certain=True) for image_id in ids if image_id in evaluated}
    overlap = tuple(sorted(image_id for image_id, twin in twins.items() if twin.certain))
    alike = tuple(sorted(twins.keys() - {*overlap}))
    if not allow_overlap:
        _refuse(overlap or alike, twins, len(ids))
    return CalibrationDraw(ids=ids, requested=size, available=len(pool), overlap=overlap, alike=alike)


def _refuse(found: Sequence[str], twins: Mapping[str, Twin], num_drawn: int) -> None:
    if not found:
        return
    shown = [f"{image_id} {twins[image_id].reason}".strip() for image_id in found[:5]]
    some = ", ".join([*shown, *(["..."] if len(found) > 5 else [])])
    if twins[found[0]].certain:
        raise DataError(
            f"{len(found)} of {num_drawn} calibration images are evaluated too ({some}): "
            "a quantized network would be scored on what it was fitted to.",
            fix="calibrate on a split that is not evaluated, or give --allow-calibration-overlap, which marks it.",
        )
    raise DataError(
        f"{len(found)} of {num_drawn} calibration images look like evaluated ones ({some}), as copies do that were "
        "encoded again or scaled.",
        fix="remove the copies; if these are different pictures, give --allow-calibration-overlap, which records them.",
    )


def _check(size: int, seed: int, available: int) -> None:
    if available == 0:
        raise DataError("The calibration split lists no image.", fix="name another split.")
    if size < 1:
        raise DataError(f"The calibration size is {size}.", fix="give --calibration-size 1 or more.")
    if not 0 <= seed <= _MAX_SEED:
        raise DataError(f"The seed is {seed}.", fix=f"give a --seed of 0 to {_MAX_SEED}.")
