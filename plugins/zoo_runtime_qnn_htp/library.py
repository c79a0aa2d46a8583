"""Loads Qualcomm's execution provider into ONNX Runtime, once per process."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PROVIDER = "QNNExecutionProvider"
_LOCK = threading.Lock()


def onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off, as ``zoo_core.runtimes.onnxruntime`` does."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def devices() -> Sequence[Any]:
    """Return ONNX Runtime's devices of the provider, after registering its library if that was not done.

    The order matters: libQnnHtp.so crashes the process when it is loaded before the provider (onnxruntime-qnn 2.7).
    """
    library = onnxruntime()
    import onnxruntime_qnn

    with _LOCK:
        if not _registered():
            library.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
            with _stdout_discarded():
                ctypes.CDLL(onnxruntime_qnn.get_qnn_htp_path())
            atexit.register(_discard_c_output)
        return _registered()


def _registered() -> list[Any]:
    return [device for device in onnxruntime().get_ep_devices() if device.ep_name == PROVIDER]


def _discard_c_output() -> None:
    """Discard what the emulator's threads have left in C's buffer of stdout, which would be written at exit."""
    with contextlib.suppress(OSError, ValueError):  # stdout is closed, or its reader has left
        sys.stdout.flush()
    with _stdout_discarded():
        pass


@contextmanager
def _stdout_discarded() -> Iterator[None]:
    """Discard what libraries write to stdout: the emulator greets there when it is loaded, amid a command's results."""
    try:
        saved = os.dup(1)
    except OSError:  # stdout is closed
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # to nothing as well: C writes its buffer later otherwise
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)
