"""Detects out-of-memory errors and retries with half the batch size."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from zoo_core.errors import RunError

logger = logging.getLogger("zoo_eval")

Result = TypeVar("Result")

_MESSAGES = (
    "you tried to allocate",  # torch's allocator on a CPU
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Failed to allocate memory",  # ONNX Runtime
    "Insufficient memory",  # OpenCV
    "Cannot allocate memory",  # the operating system, when it maps a library or starts a process
    "std::bad_alloc",
    "can't start new thread",
)

_MAPPING_FAILED = "failed to map segment from shared object"
"""Last words of the dynamic linker without memory; where execution is forbidden, it adds the reason."""


def out_of_memory(error: BaseException) -> str | None:
    """Return the message of an out-of-memory error in the chain of causes; None if there is none."""
    torch = sys.modules.get("torch")
    kinds = (MemoryError, *([torch.OutOfMemoryError] if torch is not None else []))
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if isinstance(cause, kinds) or any(message in text for message in _MESSAGES) or text.endswith(_MAPPING_FAILED):
            return f"{type(cause).__name__}: {cause}"
        cause = cause.__cause__ or cause.__context__
    return None


def with_less_memory(
    batch_size: int, run: Callable[[int, bool], Result], restart: Callable[[int, int], None]
) -> Result:
    """Run at a batch size, and again at half of it whenever memory runs out.

    At batch size 1 the last attempt keeps only one batch in flight, which does not change results.

    Args:
        batch_size: Images per forward pass of the first attempt.
        run: Called with a batch size, and True if only one batch may be in flight.
        restart: Called before the next ``run`` with the batch size that was too large and the next one.

    Raises:
        RunError: There is not enough memory for one image.
    """
    one_in_flight = False
    while True:
        try:
            return run(batch_size, one_in_flight)
        except Exception as error:
            message = out_of_memory(error)
            if message is None:
                raise
            if one_in_flight:
                raise RunError(
                    f"There is not enough memory for one image at a time ({message}).",
                    fix="end other programs that need memory, or use a machine that has more.",
                ) from error
        # Only here has the error released the tensors in its frames.
        logger.warning("Out of memory with batches of %d: %s", batch_size, message)
        _release()
        if batch_size == 1:
            one_in_flight = True
        else:
            restart(batch_size, batch_size // 2)
            batch_size //= 2


def _release() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
