"""Runtimes: what executes an exported network, and how it says what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

Precision: TypeAlias = Literal["integer", "float"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether a runtime can be used on this machine.

    Attributes:
        version: Of the library; None where it is not installed.
        reason: Why the runtime cannot be used, as a sentence; None where it can.
        fix: What to do about it, in the imperative; empty where it can be used.
    """

    version: str | None
    reason: str | None = None
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Options of ``Runtime.load``.

    Attributes:
        num_threads: Threads of the session.
        exact_products: Avoid instructions that saturate sums of 8-bit products, even where that is slower.
        allow_fallback: Nodes may run elsewhere than on the runtime's own device; they appear in ``coverage``.
    """

    num_threads: int = 1
    exact_products: bool = False
    allow_fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedNode:
    """Node of the graph that a runtime executes, after its own rewriting.

    Attributes:
        name: As the runtime calls it.
        operation: Kind of the node in the runtime's words, e.g. ``QLinearConv``.
        computes: Names of the ONNX nodes of the loaded model that it computes, as far as the runtime tells.
        precision: Arithmetic of its products; ``float`` also for nodes without products that compute in float.
        device: Where it runs, e.g. ``CPU`` or ``HTP``.
        elsewhere: It runs on another device than the runtime's own, which is a fallback.
        reason: Why it runs in float or elsewhere, in the runtime's words; empty where it gives none.
    """

    name: str
    operation: str
    computes: tuple[str, ...]
    precision: Precision
    device: str
    elsewhere: bool = False
    reason: str = ""


class RuntimeSession(Protocol):
    """Loaded model. Several threads may call it at once."""

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs by name, in the model's order.

        Args:
            inputs: By name; cast to the type of the model's input. Those that the model does not have are ignored.
        """
        ...

    def coverage(self) -> Sequence[ExecutedNode]:
        """Return the nodes that the runtime executes, in its order."""
        ...


class Runtime(Protocol):
    """Executes ONNX models; an object that can be made without arguments from its class, in another process too.

    Attributes:
        name: As ``--runtimes`` names it.
        quantized_input: It needs a network whose input is quantized (``quantsim.input: quantized``).
        emulated: Its times and its memory are those of an emulator, so they are not shown.
    """

    @property
    def name(self) -> str: ...  # see the class
    @property
    def quantized_input(self) -> bool: ...
    @property
    def emulated(self) -> bool: ...

    def availability(self) -> Availability:
        """Return whether the runtime can be used here; cheap, and must not raise."""
        ...

    def load(self, model: bytes, options: LoadOptions) -> RuntimeSession:
        """Load a serialized ONNX model.

        Raises:
            RuntimeUnsupportedError: The runtime cannot execute the model, or only with a fallback that ``options`` does
                not allow; the fact names the nodes and gives the runtime's words.
        """
        ...
