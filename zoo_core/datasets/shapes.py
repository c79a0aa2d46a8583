"""Draws the embedded demo's pictures of shapes; each picture is a function of seed, split and index.

The twenty classes are five outlines in four textures. Random choices come from numpy's PCG64, and every drawing step
uses integers or OpenCV's bit-exact functions on 8-bit images, so a picture does not depend on the number of threads.
Only the JPEG encoder may differ between releases of OpenCV; `write_voc` therefore records the release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import cv2
import numpy as np

from zoo_core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Split: TypeAlias = Literal["train", "trainval", "test"]

# Increase it whenever a picture changes: pictures on disk are then drawn again.
DRAWING_VERSION = 1
DEFAULT_SEED = 2007
OUTLINES = ("disk", "square", "triangle", "star", "cross")
TEXTURES = ("solid", "stripes", "checker", "dots")
CLASS_NAMES = tuple(f"{texture}_{outline}" for texture in TEXTURES for outline in OUTLINES)

# The split's code is part of the generator's seed: no picture can appear in two splits.
_SPLIT_CODES: dict[str, int] = {"train": 0, "trainval": 1, "test": 2}
# From, to (excluded). A training picture costs the same however many shapes it shows.
_NUM_SHAPES: dict[str, tuple[int, int]] = {"train": (3, 9), "trainval": (1, 6), "test": (1, 6)}
_SUBPIXEL_BITS = 3
_FIXED_POINT = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShapesImage:
    """One drawn picture and its ground truth.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB; each side is 260 to 500 px.
        boxes: ``(M, 4)`` float32, ``xyxy`` in absolute pixels, 0-based, last pixel included, inside the image;
            M is at most 5, in the split train 8. A box encloses the part inside the image, even where it is hidden.
        labels: ``(M,)`` int64, index into `CLASS_NAMES`.
        difficult: ``(M,)`` bool; under 7 % of the image's side, more than 60 % hidden, or more than half outside.
        truncated: ``(M,)`` bool; reaches over the border.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Placed:
    """A shape on the canvas: its label, the box of its part inside the image, and its areas."""

    label: int
    box: tuple[int, int, int, int]  # x, y, width, height of the part inside the image
    area_inside_px: int
    area_whole_px: float


def draw_image(split: Split, index: int, *, seed: int = DEFAULT_SEED) -> ShapesImage:
    """Draw one picture; the same arguments give the same pixels.

    Args:
        split: Pictures of different splits never share a generator.
        index: Index of the picture, from 0, without an upper limit.
        seed: Seed of the whole collection, from 0.

    Raises:
        DataError: ``split`` is unknown, or ``index`` or ``seed`` is negative.
    """
    if split not in _SPLIT_CODES:
        raise DataError(f"Shapes have no split {split!r}.", fix=f"use one of {', '.join(_SPLIT_CODES)}.")
    if index < 0 or seed < 0:
        raise DataError(f"Picture {index} of seed {seed} cannot be drawn.", fix="use an index and a seed from 0.")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _SPLIT_CODES[split], index])))
    width, height = (int(side) for side in rng.integers(260, 501, 2))
    image = _background(rng, width, height)
    _scribble(rng, image, num_strokes=int(rng.integers(0, 6)))
    owner = np.zeros((height, width), np.uint8)
    placed: list[_Placed] = []
    for _ in range(int(rng.integers(*_NUM_SHAPES[split]))):
        shape = _place(rng, image, owner, placed)
        if shape is not None:
            placed.append(shape)
    _scribble(rng, image, num_strokes=int(rng.integers(0, 2)))
    return _annotate(_degrade(rng, image), owner, placed)


def _background(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Draw a smooth field of random colors, coarse in some pictures and fine in others."""
    rows, columns = (int(n) for n in rng.integers(2, 22, 2))
    low, high = np.sort(rng.integers(0, 256, (2, 3)), axis=0)
    saturated = rng.random() < 0.5
    grid = rng.integers(0, 256, (rows, columns, 3)) if saturated else rng.integers(low, high + 1, (rows, columns, 3))
    field = cv2.resize(grid.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.ascontiguousarray(field, dtype=np.uint8)


def _scribble(rng: np.random.Generator, image: NDArray[np.uint8], *, num_strokes: int) -> None:
    """Draw clutter: open strokes and arcs, which belong to no class."""
    height, width = image.shape[:2]
    for _ in range(num_strokes):
        color = [int(c) for c in rng.integers(0, 256, 3)]
        thickness = int(rng.integers(1, 6))
        if rng.random() < 0.6:
            points = rng.integers(0, [width, height], (int(rng.integers(2, 5)), 2)).astype(np.int32)
            cv2.polylines(image, [points], False, color, thickness)
        else:
            center = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            axes = (int(rng.integers(8, width // 3)), int(rng.integers(8, height // 3)))
            start, sweep = int(rng.integers(0, 360)), int(rng.integers(60, 250))
            cv2.ellipse(image, center, axes, 0, start, start + sweep, color, thickness)


def _outline(name: str) -> NDArray[np.float64]:
    """Return the corners ``(K, 2)`` of an outline that fills the square from -1 to 1."""
    if name == "disk":
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if name == "square":
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    if name == "triangle":
        return np.array([[0, -1], [1, 1], [-1, 1]], np.float64)
    if name == "star":
        angle = -np.pi / 2 + np.arange(10) * np.pi / 5
        radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    arm = 0.34
    quarter = np.array([[-arm, -1], [arm, -1], [arm, -arm]])
    turns = [np.array([[0, 1], [-1, 0]]), np.array([[-1, 0], [0, -1]]), np.array([[0, -1], [1, 0]])]
    return np.concatenate([quarter, *(quarter @ turn for turn in turns)])


_CORNERS = {name: _outline(name) for name in OUTLINES}


def _place(
    rng: np.random.Generator, image: NDArray[np.uint8], owner: NDArray[np.uint8], placed: list[_Placed]
) -> _Placed | None:
    """Draw one more shape where it leaves enough of every other visible; None if six attempts find no place."""
    height, width = image.shape[:2]
    label = int(rng.integers(len(CLASS_NAMES)))
    corners = _CORNERS[OUTLINES[label % len(OUTLINES)]]
    number = len(placed) + 1
    for _ in range(6):
        side = rng.uniform(0.05, 0.8) * (width * height) ** 0.5
        stretch = 2.0 ** rng.uniform(-0.45, 0.45)
        half = np.minimum([side * stretch, side / stretch], [0.8 * width, 0.8 * height]) / 2
        angle = rng.uniform(-0.12, 0.12)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        margin = half if rng.random() < 0.7 else 0.0 * half  # a third may reach over the border
        center = margin + rng.random(2) * ([width, height] - 2 * margin)
        points = np.rint((corners * half @ turn + center) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        mask = np.zeros_like(owner)
        cv2.fillPoly(mask, [points], 1, shift=_SUBPIXEL_BITS)
        whole = cv2.contourArea(points.astype(np.float32)) / (1 << 2 * _SUBPIXEL_BITS)
        inside = cv2.countNonZero(mask)
        if inside < 0.4 * whole or not _leaves_others_visible(mask, owner, placed):
            continue
        x, y, box_width, box_height = cv2.boundingRect(mask)
        box = (x, y, box_width, box_height)
        _paint(rng, image, mask, box, TEXTURES[label // len(OUTLINES)], side)
        owner[mask > 0] = number
        return _Placed(label=label, box=box, area_inside_px=inside, area_whole_px=whole)
    return None


def _leaves_others_visible(mask: NDArray[np.uint8], owner: NDArray[np.uint8], placed: list[_Placed]) -> bool:
    """Return True if at least 30 % of each earlier shape's area stays visible under a new one."""
    remaining = _visible_px(owner, len(placed), outside=mask)
    return all(left >= 0.3 * shape.area_whole_px for left, shape in zip(remaining, placed, strict=True))


def _visible_px(
    owner: NDArray[np.uint8], num_shapes: int, *, outside: NDArray[np.uint8] | None = None
) -> NDArray[np.float64]:
    """Count the pixels of each shape, ``(num_shapes,)``; those under the mask ``outside`` (0 or 1) are not counted."""
    counted = None if outside is None else 1 - outside
    histogram = cv2.calcHist([owner], [0], counted, [256], [0, 256])  # float32 counts exactly to 2**24
    return np.asarray(histogram, np.float64).ravel()[1 : num_shapes + 1]


def _paint(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    texture: str,
    side: float,
) -> None:
    """Fill the masked part of the image with a texture in two random colors."""
    x, y, width, height = box
    window = np.s_[y : y + height, x : x + width]
    color = rng.integers(0, 256, 3)
    other = rng.integers(0, 256, 3)
    while abs(other - color).sum() < 180:  # at least a visible texture
        other = rng.integers(0, 256, 3)
    period = max(8.0, float(rng.uniform(0.18, 0.32)) * side)
    pattern = _texture(rng, texture, width, height, period)
    tile = np.stack([color, other]).astype(np.uint8)[pattern.astype(np.intp)]
    cv2.copyTo(tile, np.ascontiguousarray(mask[window]), image[window])


def _texture(rng: np.random.Generator, name: str, width: int, height: int, period: float) -> NDArray[np.bool_]:
    """Draw a rotated and shifted texture of ``period`` pixels, ``(height, width)``; True means the second color."""
    if name == "solid":
        return np.zeros((height, width), np.bool_)
    angle = (np.pi / 4 if name == "stripes" else 0.0) + rng.uniform(-0.12, 0.12)
    cos, sin = round(np.cos(angle) * _FIXED_POINT), round(np.sin(angle) * _FIXED_POINT)
    step = round(period * _FIXED_POINT)
    shift_u, shift_v = (int(s) for s in rng.integers(0, step, 2))
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    u = x * cos + y * sin + shift_u
    if name == "stripes":
        return np.asarray(u % step < step // 2)
    v = y * cos - x * sin + shift_v
    if name == "checker":
        half = step // 2
        return np.asarray((u % step < half) != (v % step < half))
    u, v = (u % step - step // 2) >> 6, (v % step - step // 2) >> 6
    return np.asarray(u * u + v * v < ((step * 21 // 64) >> 6) ** 2)


def _degrade(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Add blur and noise of random strength, as from a poor camera."""
    sigma = float(rng.uniform(0.3, 1.3))
    if rng.random() < 0.6:
        image = np.asarray(cv2.GaussianBlur(image, (7, 7), sigma), dtype=np.uint8)
    height, width = image.shape[:2]
    # One block of noise, repeated: a normal number for each value would cost more than drawing the picture.
    block = np.rint(rng.normal(0.0, rng.uniform(0, 14), (128, 128, 3))).astype(np.int16)
    noise = np.tile(block, (height // 128 + 1, width // 128 + 1, 1))[:height, :width]
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), dtype=np.uint8)  # saturates


def _annotate(image: NDArray[np.uint8], owner: NDArray[np.uint8], placed: list[_Placed]) -> ShapesImage:
    visible = _visible_px(owner, len(placed))
    inside = np.array([shape.area_inside_px for shape in placed], np.float64)
    whole = np.array([shape.area_whole_px for shape in placed], np.float64)
    corner_and_size = np.array([shape.box for shape in placed], np.float32).reshape(-1, 4)
    size = corner_and_size[:, 2:]
    small = np.sqrt(size.prod(axis=1)) < 0.07 * owner.size**0.5
    return ShapesImage(
        image=image,
        boxes=np.concatenate([corner_and_size[:, :2], corner_and_size[:, :2] + size - 1], axis=1),
        labels=np.array([shape.label for shape in placed], np.int64),
        difficult=small | (visible < 0.4 * inside) | (inside < 0.5 * whole),
        truncated=inside < 0.97 * whole - 2,
    )
