"""Virtual environments for tests that install a package."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path


class Environment:
    """A fresh virtual environment that sees the packages of this one, so that torch is not installed again."""

    def __init__(self, folder: Path) -> None:
        run([sys.executable, "-m", "venv", str(folder)])
        self.folder = folder
        (packages,) = folder.glob("lib/python*/site-packages")
        here = [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and Path(path).is_dir()]
        here += [path for path in site.getsitepackages() if path not in here]
        lines = [f"import site; site.addsitedir({path!r})" for path in here]
        (packages / "this_environment.pth").write_text("\n".join(lines) + "\n")

    def __call__(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run a command that is installed here; what it prints is returned, and failing fails the test."""
        return run([str(self.folder / "bin" / arguments[0]), *arguments[1:]], cwd=cwd)


def run(command: list[str], cwd: Path | None = None) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    environ |= {"COLUMNS": "160", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    done = subprocess.run(  # noqa: S603  # our own interpreter
        command, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout
