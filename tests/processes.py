"""zoo-eval as a command in processes of its own, with the toy detector installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
ENTRY_POINTS = "[zoo_eval]\ntoy_detector = toy_detector.hooks\n"


class Commands:
    """Starts ``zoo-eval`` with other environment variables than the tests have.

    Args:
        folder: An empty one; becomes current folder and cache, and holds the metadata that installs the toy.
    """

    def __init__(self, folder: Path) -> None:
        metadata = folder / "installed" / "toy_detector-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_detector\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
        self.folder = folder

    def start(self, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        """Start a command; stdout and stderr come through one pipe."""
        paths = [str(self.folder / "installed"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "ZOO_EVAL_CACHE": str(self.folder / "cache"), **variables}
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        return subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-m", "zoo_core.cli.main", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=environment,
        )

    def __call__(self, *arguments: object, **variables: str) -> str:
        """Run a command to its end; what it prints is returned, and failing fails the test."""
        process = self.start(*arguments, **variables)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return printed
