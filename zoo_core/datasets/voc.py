"""Pascal VOC detection data on disk: images, annotations, splits, and the comp4 submission.

torchvision's ``VOCDetection`` is not used here: it requires its own folder names and the published splits, parses
annotations to untyped dictionaries without checks, and does not guard against hostile archives when it extracts.
Its download table is the source of the archives' addresses and MD5 sums in the registry.

Layout and annotation format: http://host.robots.ox.ac.uk/pascal/VOC/voc2007/devkit_doc_07-Jun-2007.pdf, section 4.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from zoo_core.datasets.comp4 import write_comp4
from zoo_core.datasets.images import MAX_PIXELS, read_image
from zoo_core.datasets.labels import check_class_names, read_label_file
from zoo_core.datasets.reading import name_problem, read_file, read_lines
from zoo_core.datatypes import DetectionTarget, Prediction
from zoo_core.errors import DataError, closest_hint

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The classes of VOC2007 to VOC2012, in the order of the published label file."""

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_MAX_ANNOTATION_BYTES = 1 << 24
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocDetection:
    """One split of a dataset in VOC layout; implements ``EvalDataset``.

    Opening it reads only the list of ids. Images and annotations are read on demand and not kept, so memory does not
    grow with the split; every method may be called from several threads.

    Args:
        root: ``VOCdevkit/VOC2007``, ``VOCdevkit`` or its parent; see ``find_voc_folder``.
        split: Name of a file in ``ImageSets/Main`` without ``.txt``.
        class_names: Index is the label; None for those in the label file, or else VOC's own 20 classes.
        label_file: See ``read_label_file``; excludes ``class_names``.
        name: Display name; also selects one of several VOC folders.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        DataError: The folder, the split or the label file cannot be used.
    """

    submission_format = "comp4"

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        class_names: Sequence[str] | None = None,
        label_file: Path | None = None,
        name: str = "VOC2007",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if class_names is not None and label_file is not None:
            raise DataError("Class names and a label file were both given.", fix="give one of them.")
        if label_file is not None:
            self.class_names = read_label_file(label_file)
        else:
            self.class_names = check_class_names(tuple(class_names)) if class_names is not None else VOC_CLASSES
        self.name = name
        self.split = split
        self.root = find_voc_folder(root, name)
        self.ids = _read_ids(self.root, split)
        self._label_file = label_file
        self._max_pixels = max_pixels
        self._known_ids = frozenset(self.ids)
        self._labels = {class_name: label for label, class_name in enumerate(self.class_names)}

    def image_path(self, image_id: str) -> Path:
        """Return the image's file: ``JPEGImages/<id>`` with the suffix .jpg, .jpeg or .png.

        Raises:
            DataError: The id is not in this split, or there is no such file.
        """
        self._check_id(image_id)
        for suffix in _IMAGE_SUFFIXES:
            path = self.root / "JPEGImages" / f"{image_id}{suffix}"
            if path.exists():
                return path
        path = self.root / "JPEGImages" / f"{image_id}.jpg"
        raise DataError(
            f"{path} does not exist (nor with the suffix .jpeg or .png); split {self.split!r} lists {image_id!r}.",
            fix="check that the data set is complete, or remove the id from the split.",
        )

    def annotation_path(self, image_id: str) -> Path:
        """Return the path of the image's annotation. Raises DataError when the id is not in this split."""
        self._check_id(image_id)
        return self.root / "Annotations" / f"{image_id}.xml"

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` uint8 RGB with an EXIF orientation applied, as in the published evaluator.

        Raises:
            DataError: The file is missing, truncated, damaged or too large; see ``read_image``.
        """
        return read_image(self.image_path(image_id), max_pixels=self._max_pixels)

    def target(self, image_id: str) -> DetectionTarget:
        """Return the annotated objects, in the file's order; one is subtracted from the corners to make them 0-based.

        Raises:
            DataError: The annotation is missing or malformed, or has a class without a label.
        """
        path = self.annotation_path(image_id)
        objects = _parse_xml(path).findall("object")
        boxes = np.empty((len(objects), 4), np.float32)
        labels = np.empty(len(objects), np.int64)
        difficult = np.empty(len(objects), np.bool_)
        for index, element in enumerate(objects):
            where = f"{path}: object {index}"
            labels[index] = self._label(element, where)
            boxes[index] = _box(element, where)
            difficult[index] = _is_difficult(element, where)
        return DetectionTarget(boxes=boxes - np.float32(1), labels=labels, difficult=difficult)

    def content_hash(self, image_id: str) -> str:
        """Return the SHA-256 over image bytes and annotation bytes, each preceded by its length (8 bytes, big-endian).

        Raises:
            DataError: One of the files is missing or cannot be read.
        """
        digest = hashlib.sha256()
        for path in (self.image_path(image_id), self.annotation_path(image_id)):
            data = read_file(path, max_bytes=1 << 29)
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """Write ``comp4_det_<split>_<class>.txt`` for every class; see ``write_comp4``."""
        write_comp4(directory, predictions, class_names=self.class_names, split=self.split)

    def _check_id(self, image_id: str) -> None:
        # Only ids listed in the split, where they were validated, ever become part of a path.
        if image_id not in self._known_ids:
            raise DataError(
                f"Image id {image_id[:80]!r} is not in split {self.split!r} of {self.root}"
                f"{closest_hint(image_id, self.ids[:10_000])}.",
                fix=f"use ids that {self.root / 'ImageSets' / 'Main' / self.split}.txt lists.",
            )

    def _label(self, element: Element, where: str) -> int:
        class_name = _text(element, "name", where)
        try:
            return self._labels[class_name]
        except KeyError:
            pass
        labels_file = self.root / "labels.txt"
        if self._label_file is not None:
            fix = f"add the class to {self._label_file}, or correct the annotation."
        elif labels_file.is_file():
            fix = f"name the classes with --labels {labels_file}"
        else:
            fix = "name the classes with --labels FILE, one per line, or correct the annotation."
        raise DataError(
            f"{where}: name: class {class_name[:80]!r} is not among the {len(self.class_names)} classes"
            f"{closest_hint(class_name, self.class_names)}.",
            fix=fix,
        )


def find_voc_folder(root: Path, name: str = "VOC2007") -> Path:
    """Return the folder with ``ImageSets/Main`` and ``Annotations``: ``root`` or one below it.

    Searches ``root`` itself, then the folders in it, then those in ``root/VOCdevkit``. If there are several, the one
    called ``name`` is taken. ``JPEGImages`` may be missing, since scoring stored detections needs no images.

    Raises:
        DataError: There is none, or there are several and none is called ``name``.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a directory.", fix="give --data the folder VOCdevkit/VOC2007 or one above it.")
    if _is_voc_folder(root):
        return root
    for parent in (root, root / "VOCdevkit"):
        try:
            folders = sorted(folder for folder in parent.iterdir() if _is_voc_folder(folder)) if parent.is_dir() else []
        except OSError as error:
            raise DataError(f"{parent} cannot be listed: {error}.", fix="check the right to read it.") from error
        named = [folder for folder in folders if folder.name == name]
        if len(named or folders) == 1:
            return (named or folders)[0]
        if folders:
            raise DataError(
                f"{parent} holds several data sets and none is called {name}: "
                f"{', '.join(folder.name for folder in folders)}.",
                fix="give --data one of these folders.",
            )
    raise DataError(
        f"{root} is not a data set in VOC layout: neither it nor a folder in it or in its VOCdevkit holds "
        "ImageSets/Main and Annotations.",
        fix="give --data the folder VOCdevkit/VOC2007, VOCdevkit, or its parent.",
    )


def _is_voc_folder(folder: Path) -> bool:
    return (folder / "ImageSets" / "Main").is_dir() and (folder / "Annotations").is_dir()


def _read_ids(root: Path, split: str) -> tuple[str, ...]:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if name_problem(split) is not None or not path.is_file():
        # VOC's own folder has 80 more files, one per class and split; they are lists with a second column.
        splits = sorted(file.stem for file in folder.glob("*.txt"))
        plain = [name for name in splits if not name.startswith(tuple(f"{known}_" for known in VOC_CLASSES))]
        raise DataError(
            f"{folder} has no split {split[:80]!r}{closest_hint(split, splits)}.",
            fix=f"use one of {', '.join((plain or splits)[:20]) or 'none: the folder is empty'}.",
        )
    ids = [line.strip(" \t") for line in read_lines(path)]
    if not ids:
        raise DataError(f"{path} lists no image.", fix="write one image id per line.")
    problems = []
    first_lines: dict[str, int] = {}
    for number, image_id in enumerate(ids, start=1):
        problem = name_problem(image_id)
        if problem is None and first_lines.setdefault(image_id, number) != number:
            problem = f"is already on line {first_lines[image_id]}"
        if problem is not None:
            problems.append(f"{path}:{number}: image id {image_id[:80]!r} {problem}.")
    if problems:
        more = [f"... and {len(problems) - 10} more."] if len(problems) > 10 else []
        raise DataError("\n".join(problems[:10] + more), fix="write one image id per line, each once, without suffix.")
    return tuple(ids)


def _parse_xml(path: Path) -> Element:
    data = read_file(path, max_bytes=_MAX_ANNOTATION_BYTES)
    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(
            f"{path} declares a document type or entities, which is refused: {error}.",
            fix="remove the declaration; annotations do not need one.",
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} is not well-formed XML: {error}.", fix="restore the file from its archive.") from error
    if root.tag != "annotation":
        raise DataError(
            f"{path}: the outermost element is <{root.tag[:80]}>, not <annotation>.",
            fix="restore the annotation from its archive.",
        )
    return root


def _text(parent: Element, tag: str, where: str) -> str:
    element = parent.find(tag)
    text = (element.text or "").strip() if element is not None else ""
    if not text:
        state = "missing" if element is None else "empty"
        raise DataError(f"{where}: <{tag}> is {state}.", fix=f"add <{tag}> with its value to the annotation.")
    return text


def _box(element: Element, where: str) -> tuple[float, float, float, float]:
    bndbox = element.find("bndbox")
    if bndbox is None:
        raise DataError(f"{where}: <bndbox> is missing.", fix="add the box, or remove the object.")
    corners = []
    for tag in _CORNERS:
        text = _text(bndbox, tag, where)
        try:
            value = float(text) if "_" not in text else math.nan  # Python reads 1_0 as 10
        except ValueError:
            value = math.nan
        # 1e6 lies beyond any image and far inside what float32 holds to a fraction of a pixel.
        if not abs(value) < 1e6:
            raise DataError(f"{where}: <{tag}> is {text[:80]!r}, not a pixel coordinate.", fix="correct the box.")
        corners.append(value)
    x1, y1, x2, y2 = corners
    if x2 < x1 or y2 < y1:
        raise DataError(
            f"{where}: the box ends before it starts: xmin {x1:g}, xmax {x2:g}, ymin {y1:g}, ymax {y2:g}.",
            fix="swap the corners, or correct the box.",
        )
    return x1, y1, x2, y2


def _is_difficult(element: Element, where: str) -> bool:
    if element.find("difficult") is None:
        return False
    text = _text(element, "difficult", where)
    if text not in ("0", "1"):
        raise DataError(f"{where}: <difficult> is {text[:80]!r}, neither 0 nor 1.", fix="write 0 or 1.")
    return text == "1"
