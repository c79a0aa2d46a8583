"""Ctrl-C during a run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Arguments = Callable[..., list[str]]


def test_an_interrupted_run_exits_with_130_says_so_and_keeps_what_was_complete(
    arguments: Arguments, voc: Path, tmp_path: Path
) -> None:
    ids = [f"9{index:05d}" for index in range(2000)]  # far more than run until the interrupt comes
    for image_id in ids:
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            shutil.copyfile(voc / folder / f"000000.{suffix}", voc / folder / f"{image_id}.{suffix}")
    (voc / "ImageSets" / "Main" / "test.txt").write_text("\n".join(ids))
    run = tmp_path / "run"
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "zoo_core.cli.main", *arguments(stages="fp32"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A gate that runs in the background hands down "ignore SIGINT", which a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not list(run.glob("predictions/fp32/*.parquet")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()

    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.rstrip().endswith("interrupted")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["finished"] is not None
    assert not (run / "metrics.json").exists()
    assert list(run.glob("predictions/fp32/chunk-*.parquet"))
