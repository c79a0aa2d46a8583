"""Collects versions, hardware, thread and kernel settings for the record of a run."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoo_core.datatypes import RECORDED_PACKAGES
from zoo_core.runs.parts import KERNEL_VARIABLES, EnvironmentRecord, GitRecord

ENVIRONMENT_VARIABLES = (
    *KERNEL_VARIABLES,
    "CUDA_VISIBLE_DEVICES",
    "MKL_DYNAMIC",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
"""The only environment variables that are recorded: others may contain secrets."""

_NUMERIC_FIELDS = ("processor", "device_name", "torch_threads", "cpu_capability", "torch_settings")


def environment(device: str, packages: Iterable[str] = ()) -> EnvironmentRecord:
    """Return versions, hardware and thread settings.

    Args:
        device: The torch device string of the run.
        packages: Distributions to record besides ``RECORDED_PACKAGES``.
    """
    names = dict.fromkeys((*RECORDED_PACKAGES, *sorted(packages)))
    return EnvironmentRecord(
        python=platform.python_version(),
        packages={name: known for name in names if (known := installed_version(name)) is not None},
        platform=platform.platform(),
        processor=_processor(),
        num_cores=os.cpu_count(),
        device=device,
        device_name=_device_name(device),
        torch_threads=_torch_threads(),
        cpu_capability=_cpu_capability(),
        torch_settings=_torch_settings(),
        environment_variables={name: os.environ[name] for name in sorted(ENVIRONMENT_VARIABLES) if name in os.environ},
    )


def arithmetic(device: str) -> dict[str, Any]:
    """Return everything about machine and process that the last digits of a computation depend on, JSON-able.

    Args:
        device: A torch device string.
    """
    here = environment(device)
    return {name: getattr(here, name) for name in _NUMERIC_FIELDS} | {"environment_variables": here.kernel_variables}


@contextmanager
def fixed_threads(number: int | None = None) -> Iterator[None]:
    """Compute with a number of threads, because the order in which a sum is taken can depend on it.

    Setting the number also overrides ``MKL_NUM_THREADS`` and MKL's own choice of fewer threads; both would otherwise
    change last digits while torch reports the same number of threads.

    Args:
        number: None for as many as torch would use now.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def git_state(path: Path) -> GitRecord | None:
    """Return commit and cleanliness of the checkout that tracks the file ``path``; None if none does.

    A file in a virtual environment inside somebody's repository is not tracked by that repository.
    """
    git = shutil.which("git")
    if git is None:
        return None
    folder = path.parent
    commit = _git(git, folder, "rev-parse", "HEAD")
    if commit is None or _git(git, folder, "ls-files", "--error-unmatch", "--", path.name) is None:
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
    # A git hook exports GIT_DIR and GIT_INDEX_FILE of the repository that it runs in.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(folder), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, fixed program
            command, env=variables, capture_output=True, text=True, timeout=10, check=False
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


def _cpu_capability() -> str | None:
    torch = sys.modules.get("torch")
    return str(torch.backends.cpu.get_cpu_capability()) if torch is not None else None


def _torch_settings() -> dict[str, str]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {}
    backends = torch.backends
    values = {
        "default dtype": torch.get_default_dtype(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "mkldnn": backends.mkldnn.enabled,
        "mkldnn deterministic": getattr(backends.mkldnn, "deterministic", None),
        "cudnn": backends.cudnn.enabled,
        "cudnn benchmark": backends.cudnn.benchmark,
        "cudnn deterministic": backends.cudnn.deterministic,
        "cudnn allow_tf32": backends.cudnn.allow_tf32,
        "cuda matmul allow_tf32": backends.cuda.matmul.allow_tf32,
    }
    return {name: str(value).removeprefix("torch.") for name, value in values.items()}
