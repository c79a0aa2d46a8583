"""The exchange format of the VOC detection challenge: one text file per class, one detection per line.

A line is ``<image id> <score> <x1> <y1> <x2> <y2>`` with 1-based pixel corners; the files are called
``comp4_det_<split>_<class>.txt``. Source: VOC2007 development kit documentation, section 8.2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.datasets.labels import check_class_names
from zoo_core.datasets.reading import name_problem, read_lines
from zoo_core.datatypes import Detections, Prediction
from zoo_core.errors import DataError, PluginError, closest_hint

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PREFIX = "comp4_det_"
_FLUSH_LINES = 20_000
_MAX_NUMBER = 3e38  # a little further a float32 is infinite
_LINE_FIX = "write '<image id> <score> <x1> <y1> <x2> <y2>', separated by spaces."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comp4Detections:
    """All detections in a folder of comp4 files, class by class, each class in its file's order.

    Attributes:
        image_ids: ``(N,)`` strings.
        scores: ``(N,)`` float64; any finite number, since other people's scores need not be probabilities.
        boxes: ``(N, 4)`` float32, ``xyxy`` in pixels, 0-based.
        labels: ``(N,)`` int64.
        submitted: Labels of the classes that have a file, ascending; a class with an empty file counts as submitted.
        split: Taken from the file names.
    """

    image_ids: NDArray[np.str_]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    submitted: tuple[int, ...]
    split: str

    def by_image(self) -> dict[str, Detections]:
        """Return the detections of every image that has some, highest score first, ties in the files' order."""
        # One stable sort by image and descending score; the order of classes then breaks ties.
        order = np.lexsort((-self.scores, self.image_ids))
        ids, starts = np.unique(self.image_ids[order], return_index=True)
        pieces = np.split(order, starts[1:]) if len(ids) else []
        return {
            str(image_id): Detections(boxes=self.boxes[piece], scores=self.scores[piece], labels=self.labels[piece])
            for image_id, piece in zip(ids, pieces, strict=True)
        }


def write_comp4(
    directory: Path, predictions: Iterable[tuple[str, Prediction]], *, class_names: Sequence[str], split: str
) -> None:
    """Write detections as comp4 files into an existing directory, one file for every class, even if it is empty.

    Numbers are printed so that what ``read_comp4`` gives back rounds to the same float32 (a coordinate within 2e-9 px
    of zero: to 2e-16 px, since it is stored with one added), and float64 scores exactly. Predictions are consumed and
    written one by one in their order, so memory does not grow with the number of images.

    Args:
        directory: Owned by the caller, who renames it into place if it must appear atomically.
        predictions: Image id and its detections.
        class_names: Index is the label.
        split: Part of the file names.

    Raises:
        PluginError: A prediction is not a ``Detections``, or a label has no class.
        DataError: A name cannot be part of a file name, a number is not finite, or a file cannot be written.
    """
    names = check_class_names(tuple(class_names))
    if problem := name_problem(split):
        raise DataError(f"Split {split[:80]!r} {problem}.", fix="use the split's name.")
    paths = [directory / f"{_PREFIX}{split}_{name}.txt" for name in names]
    lines: list[list[str]] = [[] for _ in names]
    num_lines = 0
    try:
        for path in paths:
            path.write_text("", encoding="utf-8")
        for image_id, prediction in predictions:
            num_lines += _add_lines(lines, image_id, prediction)
            if num_lines >= _FLUSH_LINES:
                _flush(paths, lines)
                num_lines = 0
        _flush(paths, lines)
    except OSError as error:
        raise DataError(
            f"{directory}: a detection file cannot be written: {error}.", fix="check free space and rights."
        ) from error


def _flush(paths: Sequence[Path], lines: Sequence[list[str]]) -> None:
    # Reopened each time: a label file may have more classes than a process may have open files.
    for path, new in zip(paths, lines, strict=True):
        if new:
            with path.open("a", encoding="utf-8") as file:
                file.writelines(new)
            new.clear()


def _add_lines(lines: Sequence[list[str]], image_id: str, prediction: Prediction) -> int:
    if not isinstance(prediction, Detections):
        raise PluginError(
            f"Image {image_id!r} has a prediction of type {type(prediction).__name__}; comp4 files hold Detections.",
            fix="return Detections from the plugin's decode, or use another dataset.",
        )
    if problem := name_problem(image_id):
        raise DataError(f"Image id {image_id[:80]!r} {problem}.", fix="use the ids of the split.")
    labels = prediction.labels
    if labels.size and not (labels.min() >= 0 and labels.max() < len(lines)):
        raise PluginError(
            f"Image {image_id!r} has labels from {labels.min()} to {labels.max()}; there are {len(lines)} classes.",
            fix="return 0-based labels without background from the plugin's decode.",
        )
    if not (np.isfinite(prediction.scores).all() and np.isfinite(prediction.boxes).all()):
        raise DataError(
            f"Image {image_id!r} has a score or a box that is not finite.",
            fix="check for overflow in the network's outputs or in the box decoding.",
        )
    boxes = prediction.boxes.astype(np.float64) + 1.0
    # Nine significant digits identify a float32. After the shift by one they still do for coordinates of 0.25 and
    # more, where the rounding of 5e-9 (x + 1) is below half a float32 step of x; closer to zero all digits are needed.
    is_short = np.all(np.abs(prediction.boxes) >= 0.25, axis=1)
    digits = 9 if prediction.scores.dtype == np.float32 else 17
    rows = zip(labels.tolist(), prediction.scores.tolist(), boxes.tolist(), is_short, strict=True)
    for label, score, box, short in rows:
        style = "%s %.*g %.9g %.9g %.9g %.9g\n" if short else "%s %.*g %.17g %.17g %.17g %.17g\n"
        lines[label].append(style % (image_id, digits, score, *box))
    return len(labels)


def read_comp4(directory: Path, class_names: Sequence[str], split: str | None = None) -> Comp4Detections:
    """Return the detections in a folder of ``comp4_det_<split>_<class>.txt`` files.

    Args:
        directory: Searched without subfolders; files with other names are ignored.
        class_names: Index is the label. Classes without a file were not submitted.
        split: None to take the one split found in the file names.

    Raises:
        DataError: No such file exists, there are several splits or an unknown class, or a line is malformed.
    """
    names = check_class_names(tuple(class_names))
    split, paths = _find_files(directory, names, split)
    image_ids: list[str] = []
    numbers: list[NDArray[np.float64]] = []
    labels: list[int] = []
    for label, path in paths.items():
        file_ids, file_numbers = _read_file(path)
        image_ids.extend(file_ids)
        numbers.append(file_numbers)
        labels.extend([label] * len(file_ids))
    values = np.concatenate(numbers)
    return Comp4Detections(
        image_ids=np.array(image_ids, dtype=np.str_),
        scores=values[:, 0].copy(),
        boxes=(values[:, 1:] - 1.0).astype(np.float32),
        labels=np.array(labels, dtype=np.int64),
        submitted=tuple(paths),
        split=split,
    )


def _find_files(directory: Path, names: tuple[str, ...], split: str | None) -> tuple[str, dict[int, Path]]:
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory.", fix=f"give the folder that holds {_PREFIX}*.txt files.")
    splits: dict[str, dict[int, Path]] = {}
    # Longest first, so that a file of class 'toy_car' is not taken for class 'car' of a split 'test_toy'.
    by_length = sorted(range(len(names)), key=lambda label: -len(names[label]))
    for path in sorted(directory.glob(f"{_PREFIX}*.txt")):
        stem = path.stem.removeprefix(_PREFIX)
        if split is not None and not stem.startswith(f"{split}_"):
            continue
        label = next((label for label in by_length if stem.endswith(f"_{names[label]}")), None)
        if label is None:
            class_name = stem.removeprefix(f"{split}_") if split is not None else stem.partition("_")[2]
            raise DataError(
                f"{path} belongs to a class not among the {len(names)} classes{closest_hint(class_name, names)}.",
                fix="name the classes with --labels FILE, or take the file out of the folder.",
            )
        splits.setdefault(stem.removesuffix(f"_{names[label]}"), {})[label] = path
    if not splits:
        raise DataError(
            f"{directory} holds no file {_PREFIX}{split or '<split>'}_<class>.txt.",
            fix="give the folder that holds one detection file for each class.",
        )
    if len(splits) > 1:
        raise DataError(
            f"{directory} holds detections of several splits: {', '.join(sorted(splits))}.", fix="name the split."
        )
    only_split, paths = splits.popitem()
    return only_split, dict(sorted(paths.items()))


def _read_file(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Return the N image ids of one file and its ``(N, 5)`` numbers: score and 1-based corners."""
    rows = [line.split() for line in read_lines(path, max_bytes=1 << 32)]
    if not rows:
        return [], np.empty((0, 5))
    numbers = _numbers(rows)
    if numbers is None:
        raise _malformed(path, rows)
    image_ids = [row[0] for row in rows]
    for image_id in dict.fromkeys(image_ids):
        if problem := name_problem(image_id):
            number = image_ids.index(image_id) + 1
            raise DataError(f"{path}:{number}: image id {image_id[:80]!r} {problem}.", fix=_LINE_FIX)
    return image_ids, numbers


def _numbers(rows: list[list[str]]) -> NDArray[np.float64] | None:
    """Return the ``(N, 5)`` numbers of all rows, or None when one is malformed.

    All rows are checked together because that is ten times faster; a malformed line is located only if there is one.
    """
    if set(map(len, rows)) != {6}:
        return None
    tokens = list(chain.from_iterable(row[1:] for row in rows))
    try:
        numbers = np.array(list(map(float, tokens)), dtype=np.float64).reshape(-1, 5)
    except ValueError:
        return None
    # float() accepts Python's 1_0; a data file with such a number is damaged.
    if not (np.abs(numbers) < _MAX_NUMBER).all() or any("_" in token for token in tokens):
        return None
    return numbers


def _malformed(path: Path, rows: Iterable[list[str]]) -> DataError:
    for place, message in _bad_lines(rows):
        return DataError(f"{path}:{place}: {message}.", fix=_LINE_FIX)
    raise AssertionError("a file without a malformed line was refused")


def _bad_lines(rows: Iterable[list[str]]) -> Iterator[tuple[int, str]]:
    for number, row in enumerate(rows, start=1):
        if len(row) != 6:
            yield number, f"{len(row)} columns instead of 6"
            continue
        for column, token in zip(("score", "x1", "y1", "x2", "y2"), row[1:], strict=True):
            try:
                valid = "_" not in token and abs(float(token)) < _MAX_NUMBER
            except ValueError:
                valid = False
            if not valid:
                yield number, f"{column} is {token[:80]!r}, not a finite number"
