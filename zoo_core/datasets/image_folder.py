"""Classification data in the layouts of ImageNet: one folder per class, or one folder and a file with the classes.

torchvision's ``ImageFolder`` and ``ImageNet`` are not used here: the first numbers the classes by the folders that
happen to exist, so that a part of a data set silently gets other labels, and the second requires the archives'
development kit. Neither names a damaged file.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.datasets.images import MAX_PIXELS, read_image
from zoo_core.datasets.labels import read_label_file
from zoo_core.datasets.reading import name_problem, read_file, read_lines
from zoo_core.datatypes import Classification, ClassTarget, Prediction
from zoo_core.errors import DataError, PluginError, closest_hint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_NUM_SUBMITTED = 5
_MAX_PROBLEMS = 5


class ImageFolder:
    """One split of a classification data set; implements ``EvalDataset``.

    Two layouts are read. One folder per class: ``<root>/<split>/<folder>/*.JPEG``; links are followed. Flat:
    ``<root>/<split>/*.JPEG`` with a ground-truth file beside the split's folder: ``<split>.txt``, on each line a file
    name and, after white space, a folder name (which holds no white space) or a 0-based label, as in Caffe's
    ``val.txt``; or Kaggle's ``LOC_<split>_solution.csv``. A file with only numbers is refused, because the development
    kit numbers the classes in an order of its own.

    An image's id is its path below the root, ``val/n01440764/ILSVRC2012_val_00000293.JPEG``, so no two splits share an
    id. Ids take the classes in turn, so the first N images are a sample of all classes.

    Opening it lists files. Images are read on demand and not kept; every method may be called from several threads.

    Args:
        root: The folder that holds the split's folder.
        split: Name of that folder, e.g. ``val``.
        folders: Name of each class's folder, index is the label; None for the names in ``label_file``, or else the
            folders' own names in order, those of ``class_split`` if it exists.
        class_names: Display names, one for each of ``folders``; None for the folders' names.
        class_split: The split whose folders define the classes when nothing else does: the one the network was
            trained on, since a part of a data set may lack a class.
        label_file: See ``read_label_file``; excludes ``folders``.
        name: Display name.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        DataError: The folder, its images or the ground-truth file cannot be used; or a folder is not a class.
    """

    submission_format = "top5"

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        folders: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        class_split: str | None = None,
        label_file: Path | None = None,
        name: str = "images",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if name_problem(split) is not None:
            raise DataError(f"The split {split[:80]!r} {name_problem(split)}.", fix="name a folder below the root.")
        self.name = name
        self.split = split
        self.root = root
        self._folder = root / split
        self._max_pixels = max_pixels
        if not self._folder.is_dir():
            raise _no_split(root, split)
        there = _folders(self._folder)
        if label_file is not None:
            if folders is not None:
                raise DataError("Folders and a label file were both given.", fix="give one of them.")
            self._folders: tuple[str, ...] = read_label_file(label_file)
            self._origin = str(label_file)
        elif folders is not None:
            self._folders, self._origin = tuple(folders), name
        else:
            own = root / class_split if class_split is not None else self._folder
            self._folders = _folders(own) if own.is_dir() else there
            self._origin = str(own if own.is_dir() else self._folder)
        self._labels = {folder: label for label, folder in enumerate(self._folders)}
        self.class_names = tuple(class_names) if class_names is not None and label_file is None else self._folders
        if len(self.class_names) != len(self._folders):
            raise PluginError(
                f"{len(self.class_names)} class names were given for {len(self._folders)} folders.",
                fix="give one name per folder.",
            )
        images = _in_turn(self._in_folders(there)) if there else self._flat()
        self._targets = {f"{split}/{path}": label for label, path in images}
        self.ids = tuple(self._targets)
        if not self.ids:
            raise DataError(
                f"{self._folder} holds no images.", fix="put JPEG or PNG files there, or in one folder per class."
            )

    # ------------------------------------------------------------------ finding the images

    def _in_folders(self, there: Sequence[str]) -> list[tuple[int, str]]:
        strangers = [folder for folder in there if folder not in self._labels]
        if strangers:
            shown = ", ".join(map(repr, strangers[:_MAX_PROBLEMS])) + (", ..." if strangers[_MAX_PROBLEMS:] else "")
            raise DataError(
                f"{self._folder} has {len(strangers)} folders that are no class of {self._origin}: {shown}"
                f"{closest_hint(strangers[0], self._folders)}.",
                fix="name the classes with --labels FILE, one folder's name a line, in the network's order.",
            )
        return [
            (self._labels[folder], f"{folder}/{name}") for folder in there for name in _images(self._folder / folder)
        ]

    def _flat(self) -> list[tuple[int, str]]:
        names = _images(self._folder)
        if not names:
            return []
        truth, place = self._truth()
        problems = [f"{place} does not name {name!r}" for name in names if Path(name).stem not in truth]
        if problems:
            more = f", and {len(problems) - 1} more of {len(names)} images" if len(problems) > 1 else ""
            raise DataError(f"{problems[0]}{more}.", fix="add a line for every image of the split.")
        return [(truth[Path(name).stem], name) for name in names]

    def _truth(self) -> tuple[dict[str, int], Path]:
        """Return the label of each file name without suffix, and the file they come from."""
        listing = self.root / f"{self.split}.txt"
        solution = self.root / f"LOC_{self.split}_solution.csv"
        if listing.is_file():
            return self._read_listing(listing), listing
        if solution.is_file():
            return self._read_solution(solution), solution
        raise DataError(
            f"{self._folder} holds images and no folders, and neither {listing.name} nor {solution.name} beside it "
            "names their classes.",
            fix=f"write {listing}, a file name and a class per line, or sort the images into one folder per class.",
        )

    def _read_listing(self, path: Path) -> dict[str, int]:
        truth: dict[str, int] = {}
        for number, line in enumerate(read_lines(path), start=1):
            columns = line.rsplit(maxsplit=1)
            if len(columns) != 2:
                numbers = len(columns) == 1 and columns[0].isdecimal()
                raise DataError(
                    f"{path}:{number}: {line[:80]!r} does not name an image and its class."
                    + (" A file with only numbers counts classes in the development kit's order." if numbers else ""),
                    fix="write a file name and, after a space, a folder's name or a 0-based label on each line.",
                )
            self._add(truth, columns[0].strip(), columns[1], f"{path}:{number}")
        return truth

    def _read_solution(self, path: Path) -> dict[str, int]:
        truth: dict[str, int] = {}
        for number, row in enumerate(csv.reader(read_lines(path)), start=1):
            if number == 1 and row[:1] == ["ImageId"]:
                continue
            if len(row) != 2 or not row[1].split():
                raise DataError(
                    f"{path}:{number}: {','.join(row)[:80]!r} is not ImageId,PredictionString.",
                    fix="restore the file as Kaggle publishes it.",
                )
            self._add(truth, row[0], row[1].split()[0], f"{path}:{number}")
        return truth

    def _add(self, truth: dict[str, int], file: str, name: str, where: str) -> None:
        stem = re.sub(r"\.(jpe?g|png)$", "", file.rpartition("/")[2], flags=re.IGNORECASE)
        label = self._labels.get(name, int(name) if name.isdecimal() and len(name) < 10 else -1)
        if not 0 <= label < len(self._folders):
            raise DataError(
                f"{where}: {name[:80]!r} is neither one of the {len(self._folders)} classes of {self._origin} nor a "
                f"label from 0 to {len(self._folders) - 1}{closest_hint(name, self._folders)}.",
                fix="correct the line, or name the classes with --labels FILE.",
            )
        if truth.setdefault(stem, label) != label:
            raise DataError(f"{where}: {file[:80]!r} is listed twice, with two classes.", fix="correct the file.")

    # ------------------------------------------------------------------ EvalDataset

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` uint8 RGB as stored: like torchvision, without applying an EXIF orientation.

        Raises:
            DataError: The file is missing, truncated, damaged or too large; see ``read_image``.
        """
        return read_image(self._path(image_id), max_pixels=self._max_pixels, orient=False)

    def target(self, image_id: str) -> ClassTarget:
        """Return the image's class. Raises DataError when the id is not in this split."""
        self._path(image_id)
        return ClassTarget(label=self._targets[image_id])

    def content_hash(self, image_id: str) -> str:
        """Return the SHA-256 over the class's folder name, its length before it (8 bytes, big-endian), and the image.

        Raises:
            DataError: The file is missing or cannot be read.
        """
        data = read_file(self._path(image_id), max_bytes=1 << 29)
        folder = self._folders[self._targets[image_id]].encode()
        digest = hashlib.sha256(len(folder).to_bytes(8, "big") + folder)
        digest.update(data)
        return digest.hexdigest()

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """Write ``<split>.txt``, a line per image: its id and up to five labels, most probable first, between tabs."""
        with (directory / f"{self.split}.txt").open("w", encoding="utf-8") as file:
            for image_id, prediction in predictions:
                if not isinstance(prediction, Classification):
                    raise PluginError(
                        f"The prediction for {image_id!r} is a {type(prediction).__name__}, not a Classification.",
                        fix="return Classification from decode.",
                    )
                best = prediction.labels[:_NUM_SUBMITTED].tolist()
                file.write("\t".join([image_id, *map(str, best)]) + "\n")

    def _path(self, image_id: str) -> Path:
        # Only ids listed at opening ever become part of a path.
        if image_id not in self._targets:
            raise DataError(
                f"Image id {image_id[:80]!r} is not in split {self.split!r} of {self.root}"
                f"{closest_hint(image_id, self.ids[:10_000])}.",
                fix="use ids as image_ids.txt of a run lists them: the path below the data's root.",
            )
        return self.root / image_id


def _folders(folder: Path) -> tuple[str, ...]:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}.", fix="check the right to read it.") from error
    problems = [f"{name[:80]!r} {problem}" for name in names if (problem := name_problem(name, spaces=True))]
    if problems:
        raise DataError(f"{folder}: the folder {problems[0]}.", fix="rename it; a class is named by its folder.")
    return tuple(names)


def _images(folder: Path) -> list[str]:
    # Names, not paths: ImageNet's training split has 1.3 million.
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.lower().endswith(_IMAGE_SUFFIXES) and e.name[0] != ".")
    for name in names:
        # image_ids.txt holds one id per line; the submission holds ids with labels.
        problem = name_problem(name, spaces=True)
        if problem is not None:
            raise DataError(f"{folder}: the file name {name[:80]!r} {problem}.", fix="rename the file.")
    return names


def _in_turn(images: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Interleave the classes: the first image of each, the second of each, and so on, each class in the given order."""
    last_rank: dict[int, int] = {}
    ranked = []
    for label, path in images:
        rank = last_rank[label] = last_rank.get(label, -1) + 1
        ranked.append((rank, label, path))
    return [(label, path) for _, label, path in sorted(ranked)]


def _no_split(root: Path, split: str) -> DataError:
    there = ", ".join(_folders(root)[:10]) if root.is_dir() else ""
    return DataError(
        f"{root / split} is not a folder" + (f"; {root} holds {there}." if there else "."),
        fix="give the folder that holds the split's folder with --data, and its name with --split.",
    )
