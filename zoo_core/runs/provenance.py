"""Collects versions, hardware and the state of the source tree for the record of a run."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zoo_core.datatypes import RECORDED_PACKAGES
from zoo_core.runs.parts import EnvironmentRecord, GitRecord

ENVIRONMENT_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG")
"""The only environment variables that are recorded: others may contain secrets."""


def environment(device: str) -> EnvironmentRecord:
    """Return versions, hardware and thread settings.

    Args:
        device: The torch device string of the run.
    """
    return EnvironmentRecord(
        python=platform.python_version(),
        packages={name: known for name in RECORDED_PACKAGES if (known := installed_version(name)) is not None},
        platform=platform.platform(),
        processor=_processor(),
        num_cores=os.cpu_count(),
        device=device,
        device_name=_device_name(device),
        torch_threads=_torch_threads(),
        cpu_capability=None,
        environment_variables={name: os.environ[name] for name in ENVIRONMENT_VARIABLES if name in os.environ},
    )


def git_state(path: Path) -> GitRecord | None:
    """Return commit and cleanliness of the checkout that contains ``path``, or None outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    folder = path if path.is_dir() else path.parent
    commit = _git(git, folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return GitRecord(commit=commit, dirty=bool(_git(git, folder, "status", "--porcelain", "--untracked-files=no")))


def utc_now() -> str:
    """Return the current time, ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process so far, or since ``take_peak_memory_bytes`` was called."""
    import resource

    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes


def take_peak_memory_bytes() -> int:
    """Return ``peak_memory_bytes`` and reset it to the current resident memory; only Linux supports the reset."""
    peak = peak_memory_bytes()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak


def _git(git: str, folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - no shell, fixed program
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _device_name(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_name(device)


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else None
