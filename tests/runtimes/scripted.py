"""Runtimes that misbehave, for tests of what other processes measure."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.datatypes import Availability, ExecutedNode, LoadOptions
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.onnxruntime import OnnxRuntime


class Session:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return {"output": np.zeros(1)}

    def coverage(self) -> Sequence[ExecutedNode]:
        return []


class Scripted:
    """A runtime that loads anything."""

    name = "scripted"
    quantized_input = False
    emulated = False

    def availability(self) -> Availability:
        return Availability(version="1.0")

    def load(self, model: bytes, options: LoadOptions) -> Session:
        return Session("any")


class Printing(OnnxRuntime):
    """Prints to stdout, from Python and as a C library does."""

    name = "printing"

    def load(self, model: bytes, options: LoadOptions) -> Any:
        print('{"times_ms": []}')  # noqa: T201 - the point
        os.write(1, b"loaded 1 graph\n" * 20_000)
        sys.stdout.flush()
        return super().load(model, options)


class Unsupported(Scripted):
    name = "unsupported"

    def load(self, model: bytes, options: LoadOptions) -> Session:
        raise RuntimeUnsupportedError(f"node 7 is a Sqrt; {options.num_threads} threads.", fix="leave out the Sqrt.")


class Raising(Scripted):
    name = "raising"

    def load(self, model: bytes, options: LoadOptions) -> Session:
        raise ValueError("the graph has no nodes")


class Dying(Scripted):
    name = "dying"

    def load(self, model: bytes, options: LoadOptions) -> Session:
        sys.stderr.write("driver: out of handles\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return Session("never")


class Missing(Scripted):
    name = "missing"

    def availability(self) -> Availability:
        return Availability(version=None, reason="libmissing is not installed.", fix="install libmissing.")


class Remembering(Scripted):
    """Writes which model each pass is of, one letter a pass, to the file that is its input."""

    name = "remembering"

    def load(self, model: bytes, options: LoadOptions) -> Session:
        return Written(model.decode())


class Written(Session):
    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        with Path(str(inputs["log"])).open("a", encoding="utf-8") as log:
            log.write(self.name)
        return {}


class Sleeping(Scripted):
    """Writes its process to the file that is its input, and never ends."""

    name = "sleeping"

    def load(self, model: bytes, options: LoadOptions) -> Session:
        return Endless("endless")


class Endless(Session):
    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        Path(str(inputs["pid"])).write_text(str(os.getpid()))
        while True:
            time.sleep(1)
