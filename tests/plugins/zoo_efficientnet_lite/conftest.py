from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared photographs in ImageNet's layout; do not write into it.

    ``val`` holds the 53 labelled ones, ``train`` the 128 for calibration. Nothing reads the classes of the latter,
    which are not known: ``train.txt`` gives them all the label 0.
    """
    root = tmp_path_factory.mktemp("photos")
    with tarfile.open(shared / "data" / "photos.tar") as archive:
        archive.extractall(root, filter="data")
    shutil.move(root / "photos" / "labelled", root / "val")
    shutil.move(root / "photos" / "calibration", root / "train")
    names = sorted(path.name for path in (root / "train").iterdir())
    (root / "train.txt").write_text("".join(f"{name} 0\n" for name in names))
    return root
