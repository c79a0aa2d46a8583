"""The reference data that tests compare with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.data
def test_the_reference_data_is_complete(shared: Path) -> None:
    names = {"voc2007_annotations.tar.xz", "voc2007_detections.tar.xz", "shapes_voc.tar", "shapes_mb2_ssd_lite.pth"}
    assert names <= {path.name for path in (shared / "data").iterdir()}
