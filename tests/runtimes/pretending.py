"""Runtimes that compute with ONNX Runtime and differ from it in one thing each, and the plugin that brings them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.datatypes import Availability, ExecutedNode, LoadOptions, Runtime
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.hookspecs import hookimpl
from zoo_core.runtimes.cutting import GIVEN
from zoo_core.runtimes.onnxruntime import OnnxRuntime, OnnxSession


class Brings:
    """Plugin with these runtimes."""

    def __init__(self, *runtimes: Runtime) -> None:
        self.runtimes = runtimes

    @hookimpl
    def zoo_runtimes(self) -> Sequence[Runtime]:
        return self.runtimes


class Wrapped:
    """Session of ONNX Runtime."""

    def __init__(self, session: OnnxSession) -> None:
        self.session = session

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return self.session(inputs)

    def coverage(self) -> Sequence[ExecutedNode]:
        return self.session.coverage()


class Emulator(OnnxRuntime):
    """An emulated runtime, whose cost is not measured: tests of other things take it because it is quick."""

    name = "emulator"
    emulated = True
    version = "1.0"

    def availability(self) -> Availability:
        return Availability(version=self.version)


class Second(Emulator):
    name = "second"


class Missing(Emulator):
    name = "missing"

    def availability(self) -> Availability:
        return Availability(version=None, reason="libmissing is not installed.", fix="pip install libmissing")


class TakesIntegers(Emulator):
    """Only networks whose input is quantized."""

    name = "integers"
    quantized_input = True


class _OnDemand(Emulator):
    """Behaves until the network of the run is loaded: the probes before it are another graph."""

    def load(self, model: bytes, options: LoadOptions) -> Any:
        session = super().load(model, options)
        return session if b"probe" in model else self.of_the_network(session, model, options)

    def of_the_network(self, session: OnnxSession, model: bytes, options: LoadOptions) -> Any:
        raise NotImplementedError


class Unsupported(_OnDemand):
    name = "unsupported"

    def of_the_network(self, session: OnnxSession, model: bytes, options: LoadOptions) -> Any:
        raise RuntimeUnsupportedError("Node /head/Conv: 'no kernel for Conv(11)'.", fix="leave out the Conv.")


class Broken(_OnDemand):
    name = "broken"

    def of_the_network(self, session: OnnxSession, model: bytes, options: LoadOptions) -> Any:
        raise ValueError("the handle is closed")


class _FailsAtCall(Wrapped):
    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        raise ValueError("the device is gone")


class FailsLater(_OnDemand):
    """Loads everything, compares well, and fails at the predictions."""

    name = "later"

    def __init__(self) -> None:
        self.num_loaded = 0

    def of_the_network(self, session: OnnxSession, model: bytes, options: LoadOptions) -> Any:
        self.num_loaded += 1
        return _FailsAtCall(session) if self.num_loaded == 1 else session  # the first computes the predictions


class _Elsewhere(Wrapped):
    def coverage(self) -> Sequence[ExecutedNode]:
        return [replace(one, elsewhere=True, device="host") for one in self.session.coverage()]


class FallsBack(_OnDemand):
    name = "falls-back"

    def of_the_network(self, session: OnnxSession, model: bytes, options: LoadOptions) -> Any:
        return _Elsewhere(session)


class _Changed(Wrapped):
    """Adds to the outputs of one type."""

    def __init__(self, session: OnnxSession, kind: str, value: float) -> None:
        super().__init__(session)
        self.kind, self.value = kind, value

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        outputs = self.session(inputs)
        return {
            name: self._shifted(output) if output.dtype.kind in self.kind else output
            for name, output in outputs.items()
        }

    def _shifted(self, output: NDArray[Any]) -> NDArray[Any]:
        if output.dtype.kind == "f":
            moved: NDArray[Any] = np.add(output, np.float32(self.value), dtype=np.float32)
            return moved
        limits = np.iinfo(output.dtype)
        shifted = np.clip(output.astype(np.int64) + int(self.value), limits.min, limits.max)
        narrow: NDArray[Any] = shifted.astype(output.dtype)
        return narrow


class OnlyQuantized(OnnxRuntime):
    """Refuses networks without quantizers; its cost is measured."""

    name = "only-quantized"

    def load(self, model: bytes, options: LoadOptions) -> Any:
        if b"QuantizeLinear" not in model:
            raise RuntimeUnsupportedError("Node /stem/Conv is in float.", fix="quantize it.")
        return super().load(model, options)


class Saturating(Emulator):
    """Wrong 8-bit products unless exact ones are asked for."""

    name = "saturating"

    def load(self, model: bytes, options: LoadOptions) -> Any:
        session = super().load(model, options)
        return session if options.exact_products else _Changed(session, "iu", 20)


class AlwaysWrong(Emulator):
    name = "always-wrong"

    def load(self, model: bytes, options: LoadOptions) -> Any:
        return _Changed(super().load(model, options), "iu", 20)


class WrongLayers(_OnDemand):
    """Every layer is five steps too high where it is computed from given integers."""

    name = "wrong-layers"

    def of_the_network(self, session: OnnxSession, model: bytes, options: LoadOptions) -> Any:
        return _Changed(session, "iu", 5) if GIVEN.encode() in model else session


class NotANumber(_OnDemand):
    """Its float outputs are not-a-number."""

    name = "nan"

    def of_the_network(self, session: OnnxSession, model: bytes, options: LoadOptions) -> Any:
        return _Changed(session, "f", np.nan)
