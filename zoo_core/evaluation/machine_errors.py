"""Errors of the machine: memory, disk, file names and limits. The user can correct them."""

from __future__ import annotations

import errno

from zoo_core.errors import RunError
from zoo_core.evaluation.memory import out_of_memory
from zoo_core.files import DISK_ERRORS

_REASONS = {
    **dict.fromkeys(DISK_ERRORS, ("A file cannot be written", "free disk space.")),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), ("A path cannot be used", "give another path.")),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), ("Too many files are open", "raise the limit with `ulimit -n`.")),
}


def machine_error(error: BaseException) -> RunError | None:
    """Return an error that says what the machine lacks; None if an exception has another cause."""
    message = out_of_memory(error)
    if message is not None:
        return RunError(
            f"There is not enough memory ({message}).",
            fix="end other programs that need memory, or raise the limit (`ulimit -v`).",
        )
    if isinstance(error, OSError) and error.errno in _REASONS:
        fact, fix = _REASONS[error.errno]
        return RunError(f"{fact}: {error}", fix=fix)
    return None
