"""Whatever a data set calls its images, a run writes inside its directory alone and reads back what it wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from toy_detector.data import GridDataset
from zoo_core.errors import ZooError
from zoo_core.evaluation.run import evaluate_request
from zoo_core.plugins import PluginHost
from zoo_core.results.stored import open_run
from zoo_core.runs.request import EvaluationRequest

HOSTILE = [
    "../../outside",
    "/tmp/outside",  # noqa: S108 - a name that must not become a path
    "..",
    "a/b",
    "C:\\outside",
    "a\0b",
    "first\nsecond",
    "first\rsecond",
    "first\x85second",
    "first\u2028second",
    " padded ",
    "",
    "<script>alert(1)</script>",
    "\ud800",
    "x" * 5000,
]


@pytest.mark.parametrize("image_id", HOSTILE, ids=[repr(name)[:20] for name in HOSTILE])
def test_an_image_id_leads_nowhere_and_survives_or_is_refused(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_id: str
) -> None:
    genuine = GridDataset(grid, "test")

    def renamed(self: GridDataset, root: Path | None, split: str) -> None:
        self.root, self.split = grid, split
        self.ids = (image_id, *genuine.ids[1:3])

    def of_genuine(plain: Callable[[GridDataset, str], object]) -> object:
        return lambda _self, wanted: plain(genuine, "test_000" if wanted == image_id else wanted)

    monkeypatch.setattr(GridDataset, "__init__", renamed)
    for plain in (GridDataset.image, GridDataset.target, GridDataset.content_hash):
        monkeypatch.setattr(GridDataset, plain.__name__, of_genuine(plain))
    folder = tmp_path / "inside" / "deep"
    folder.mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if path != folder}
    request = EvaluationRequest(
        model="toy_squares", data=grid, checkpoint=weights, stages="fp32", out=folder / "run", workers=0
    )
    try:
        run = open_run(evaluate_request(request, host=host).run_dir)
    except ZooError as error:
        assert "image id" in error.fact.lower() or "image" in error.fact.lower()  # noqa: PT017 - refused by name
    else:
        assert run.image_ids == (image_id, "test_001", "test_002")
    written = {path for path in tmp_path.rglob("*") if path != folder} - before
    assert all(path.is_relative_to(folder / "run") for path in written)
