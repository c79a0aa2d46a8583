"""Out of memory at a batch size: run again with half of it."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from zoo_core.errors import RunError

logger = logging.getLogger("zoo_eval")

Result = TypeVar("Result")

_WORDS = (
    "you tried to allocate",  # torch's allocator on a CPU
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Failed to allocate memory",  # ONNX Runtime
    "Insufficient memory",  # OpenCV
)


def out_of_memory(error: BaseException) -> str | None:
    """What says that memory did not suffice, in an error or in what caused it; None where nothing does."""
    torch = sys.modules.get("torch")
    kinds = (MemoryError, *([torch.OutOfMemoryError] if torch is not None else []))
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kinds) or any(words in str(seen) for words in _WORDS):
            return f"{type(seen).__name__}: {seen}"
        seen = seen.__cause__ or seen.__context__
    return None


def with_less_memory(
    batch_size: int, run: Callable[[int, bool], Result], restart: Callable[[int, int], None]
) -> Result:
    """Run something at a batch size, and at half of it again whenever memory does not suffice.

    With one image at a time the last resort is one batch at a time, which no byte depends on.

    Args:
        batch_size: Images per forward pass to begin with.
        run: Called with a batch size, and whether one batch may be on its way at a time only.
        restart: Called with the batch size that was too large and the one that is tried next, before ``run`` is.

    Raises:
        RunError: Memory does not suffice for one image.
    """
    alone = False
    while True:
        try:
            return run(batch_size, alone)
        except Exception as error:
            words = out_of_memory(error)
            if words is None:
                raise
            if alone:
                raise RunError(
                    f"Memory does not suffice for one image at a time ({words}).",
                    fix="end other programs that need memory, or use a machine that has more.",
                ) from error
        # Only here has the error let go of the tensors in its frames.
        logger.warning("Memory did not suffice for batches of %d: %s", batch_size, words)
        _release()
        if batch_size == 1:
            alone = True
        else:
            restart(batch_size, batch_size // 2)
            batch_size //= 2


def _release() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
