"""Qualcomm's HTP emulator, through ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import Availability, LoadOptions
from zoo_core.errors import RuntimeUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from zoo_runtime_qnn_htp.session import QnnHtpSession

_INSTALL = "pip install 'zoo-eval[qnn-htp]'"
_MIN_PYTHON, _MIN_GLIBC = (3, 11), (2, 35)
_NUM_NAMED = 5
"""Nodes that a message names; the rest are counted."""


class QnnHtpRuntime:
    """Emulator of the Hexagon Tensor Processor, a runtime of ``zoo_runtimes``."""

    name = "qnn-htp"
    quantized_input = True
    emulated = True

    def availability(self) -> Availability:
        """Return the installed version, or why the emulator cannot be used here."""
        try:
            version: str | None = importlib.metadata.version("onnxruntime-qnn")
        except importlib.metadata.PackageNotFoundError:
            version = None
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return Availability(
                version=version,
                reason=f"The emulator runs on Linux on x86-64; this is {sys.platform} on {platform.machine()}.",
                fix="use a Linux machine with an x86-64 processor.",
            )
        library, glibc = platform.libc_ver()
        if library != "glibc" or _numbers(glibc) < _MIN_GLIBC:
            found = f"glibc {glibc}" if library == "glibc" else "another C library"
            return Availability(
                version=version,
                reason=f"The emulator needs glibc {_joined(_MIN_GLIBC)}; this system has {found}.",
                fix="use a newer Linux distribution, e.g. Ubuntu 22.04 or Debian 12.",
            )
        if sys.version_info[:2] < _MIN_PYTHON:
            return Availability(
                version=version,
                reason=f"The emulator needs Python {_joined(_MIN_PYTHON)}; this is {_joined(sys.version_info[:2])}.",
                fix=f"use Python {_joined(_MIN_PYTHON)} or newer, and there {_INSTALL}",
            )
        if version is None:
            return Availability(version=None, reason="onnxruntime-qnn is not installed.", fix=_INSTALL)
        return Availability(version=version)

    def load(self, model: bytes, options: LoadOptions) -> QnnHtpSession:
        """Compile a model for the HTP.

        Raises:
            RuntimeUnsupportedError: The emulator cannot be used here, the model has no fixed shapes, or nodes of it
                cannot run on the HTP.
        """
        import onnx

        available = self.availability()
        if available.reason is not None:
            raise RuntimeUnsupportedError(f"The runtime qnn-htp cannot be used: {available.reason}", fix=available.fix)
        network = onnx.load_model_from_string(model)
        _require_fixed_shapes(network)
        from zoo_runtime_qnn_htp.session import QnnHtpSession, fallback_nodes

        try:
            return QnnHtpSession(network, options)
        except ImportError as error:
            raise RuntimeUnsupportedError(f"The runtime qnn-htp cannot be used: {error}", fix=_INSTALL) from error
        except Exception as error:  # ONNX Runtime's classes of errors have no common base
            words = str(error)
            nodes = [] if options.allow_fallback else fallback_nodes(network, options)
            raise _unsupported(f"onnxruntime-qnn {available.version}", words, nodes) from error


def _unsupported(version: str, words: str, nodes: Sequence[str]) -> RuntimeUnsupportedError:
    if not nodes:
        return RuntimeUnsupportedError(
            f"{version} cannot compile the network for the HTP: {words}",
            fix="quantize every layer: layers in float take much memory there, and a clip per channel (relu6.policy: "
            "per_channel_clip) leaves the layer before it in float.",
        )
    named = ", ".join(nodes[:_NUM_NAMED])
    more = f" and {len(nodes) - _NUM_NAMED} more" if len(nodes) > _NUM_NAMED else ""
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return RuntimeUnsupportedError(
        f"{version} does not execute {count} on the HTP: {named}{more} ({words})",
        fix="quantize the inputs and outputs of the layers behind them, replace the operations, or let them run on the "
        "CPU.",
    )


def _require_fixed_shapes(model: onnx.ModelProto) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims: list[Any] = [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
        if value.name not in constants and any(isinstance(dim, str) for dim in dims):
            raise RuntimeUnsupportedError(
                f"The HTP needs fixed shapes; the network's input {value.name!r} has the shape "
                f"({', '.join(map(str, dims))}).",
                fix="export the network for a fixed batch size, e.g. 1.",
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _joined(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
