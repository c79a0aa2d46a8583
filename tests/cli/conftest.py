"""A small data set in VOC layout and untrained weights, for commands that run the bundled detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from toy_detector import data
from toy_detector import hooks as toy_detector
from zoo_core.hookspecs import hookimpl
from zoo_core.plugins import PluginHost

CLASSES = ("cat", "dog")
NUM_TEST, NUM_TRAINVAL = 8, 4

_ANNOTATION = """
<annotation><object><name>{name}</name><bndbox>
<xmin>11</xmin><ymin>12</ymin><xmax>31</xmax><ymax>32</ymax>
</bndbox></object></annotation>
"""

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="session")
def untrained_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of the bundled detector for ``CLASSES``; do not write into the file."""
    import torch

    from ssd_mobilenetv2_lite.network import build_network

    path = tmp_path_factory.mktemp("weights") / "untrained.pth"
    torch.save(build_network(1 + len(CLASSES)).state_dict(), path)
    return path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """``VOC2007`` with 8 test and 4 trainval images of 60 x 40 pixels, one object each, and ``labels.txt``."""
    root = tmp_path / "VOC2007"
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for split, first, num in (("test", 0, NUM_TEST), ("trainval", NUM_TEST, NUM_TRAINVAL)):
        ids = [f"{index:06d}" for index in range(first, first + num)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
        for image_id in ids:
            image = np.full((40, 60, 3), 12 * int(image_id), np.uint8)
            assert cv2.imwrite(str(root / "JPEGImages" / f"{image_id}.jpg"), image)
            name = CLASSES[int(image_id) % len(CLASSES)]
            (root / "Annotations" / f"{image_id}.xml").write_text(_ANNOTATION.format(name=name))
    (root / "labels.txt").write_text("BACKGROUND\ncat\ndog\n")
    return root


@pytest.fixture
def arguments(voc: Path, untrained_weights: Path, tmp_path: Path) -> Arguments:
    """Makes the arguments of a ``run`` that would succeed; a keyword replaces an option, None leaves it out."""

    def make(model: str = "ssd_mobilenetv2_lite", **options: object) -> list[str]:
        given: dict[str, object] = {
            "data": voc,
            "checkpoint": untrained_weights,
            "labels": voc / "labels.txt",
            "out": tmp_path / "run",
            "device": "cpu",
            **options,
        }
        flags = {f"--{name.replace('_', '-')}": value for name, value in given.items() if value is not None}
        return ["run", model, *(text for flag, value in flags.items() for text in (flag, str(value)))]

    return make


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line find the toy plugin as if it were installed."""

    class Host(PluginHost):
        def __init__(self) -> None:
            super().__init__(installed=False)
            self.register(toy_detector, "toy_detector")

    monkeypatch.setattr("zoo_core.plugins.PluginHost", Host)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return data.write(tmp_path / "grid")


class _OfANewerVersion:
    @hookimpl
    def zoo_hook_of_tomorrow(self) -> None:
        """Not declared in this version."""


@pytest.fixture
def break_plugins(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the command line find only so many plugins, each with a hook that does not exist."""

    def replace(num: int) -> None:
        class Host(PluginHost):
            def __init__(self) -> None:
                super().__init__(installed=False)
                for index in range(num):
                    self.register(_OfANewerVersion(), f"broken_{index}")

        monkeypatch.setattr("zoo_core.plugins.PluginHost", Host)

    return replace
