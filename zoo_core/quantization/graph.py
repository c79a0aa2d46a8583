"""Inspects a network while it runs, and replaces its modules; needs torch only."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import Permute, StochasticDepth

from zoo_core.quantization.cache import tensor_sha256

logger = logging.getLogger("zoo_eval.quantization")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo_core.datatypes import StepContext


OUTPUT = "(output)"
"""Reader of a tensor that the network returns; no module can have this name."""

MOVES = frozenset(
    [
        "flatten",
        "reshape",
        "view",
        "permute",
        "transpose",
        "t",
        "T",
        "unsqueeze",
        "squeeze",
        "contiguous",
        "getitem",
        "getattr",
        "chunk",
        "split",
        "unbind",
        "expand",
        "expand_as",
        "clone",
        "detach",
        "to",
        "float",
        "type",
        "dropout",
        "dropout2d",
        "alpha_dropout",
        "feature_dropout",
        "stochastic_depth",
        "roll",
        "flip",
        "size",
        "dim",
        "numel",
        "swapaxes",
        "movedim",
        "repeat",
        "narrow",
        "select",
        "index_select",
        "into_windows",
        "from_windows",
        "_assert",
    ]
)
"""Functions and methods that compute no new value in eval mode."""


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in nested tuples, lists and mappings, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def probe_image(context: StepContext) -> torch.Tensor:
    """Return the first calibration image, ``(1, C, H, W)``: real data, because an example input may be all zeros."""
    for batch in context.calibration:
        return batch[:1].to(context.example_input.device)
    return context.example_input


def relative_change(before: nn.Module, after: nn.Module, x: torch.Tensor) -> float:
    """Compare two networks' outputs for ``x``: largest difference over largest magnitude, of the worst output.

    Returns:
        0.0 for equal outputs; infinity where an output of ``before`` is zero throughout and the other is not.
    """
    with torch.no_grad():
        pairs = list(zip(tensors_in(before(x)), tensors_in(after(x)), strict=True))
    worst = 0.0
    for expected, actual in pairs:
        difference = float((expected - actual).abs().max())
        magnitude = float(expected.abs().max())
        if difference > 0.0:
            worst = max(worst, difference / magnitude if magnitude > 0.0 else float("inf"))
    return worst


def set_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module called ``name`` (dotted, as in ``named_modules``)."""
    parent_name, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent_name), child, module)


def output_shapes(network: nn.Module, x: torch.Tensor, names: list[str]) -> dict[str, list[torch.Size]]:
    """Return the shape of each call's output, by module name; an empty list for a module that did not run."""
    shapes: dict[str, list[torch.Size]] = {name: [] for name in names}

    def remember(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: shapes[name].extend(t.shape for t in tensors_in(output))

    handles = [network.get_submodule(name).register_forward_hook(remember(name)) for name in names]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def direct_consumers(network: nn.Module, x: torch.Tensor) -> dict[str, list[str]]:
    """Return, for each module without children, the names of such modules that read its output directly.

    A tensor is followed by its identity through one forward pass, so modules that pass it on unchanged
    (``nn.Identity``, which batch-norm folding leaves behind) are skipped. A tensor that the network returns has
    ``OUTPUT`` among its readers. Functions outside modules (``reshape``) are not tracked.
    """
    producers: dict[int, str] = {}
    alive: list[torch.Tensor] = []  # an id is unique only while its tensor lives
    readers: dict[str, list[str]] = {}

    def before(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any) -> None:
            for tensor in tensors_in(args):
                if id(tensor) in producers:
                    readers[producers[id(tensor)]].append(name)

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            inputs = {id(tensor) for tensor in tensors_in(args)}
            for tensor in tensors_in(output):
                if id(tensor) not in inputs:
                    producers[id(tensor)] = name
                    readers.setdefault(name, [])
                    alive.append(tensor)

        return hook

    handles = []
    for name, module in network.named_modules():
        if not any(True for _ in module.children()) and not isinstance(module, nn.Identity):
            handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    try:
        with torch.no_grad():
            outputs = network(x)
    finally:
        for handle in handles:
            handle.remove()
    for tensor in tensors_in(outputs):
        if id(tensor) in producers:
            readers[producers[id(tensor)]].append(OUTPUT)
    return readers


def sole_consumers(network: nn.Module, x: torch.Tensor) -> dict[str, str]:
    """Return the reader of each module whose output goes to one other module and nowhere else."""
    consumers = direct_consumers(network, x)
    return {name: readers[0] for name, readers in consumers.items() if len(readers) == 1 and readers[0] != OUTPUT}


def functional_operations(network: nn.Module, x: torch.Tensor) -> list[str]:
    """Return the names of operations that ``network`` computes on float tensors outside modules.

    Empty for a network that ``torch.fx`` cannot trace.
    """
    try:
        traced = fx.GraphModule(network, _LeafTracer().trace(network))
        return list(computed(traced, x))
    except Exception as error:  # a plugin's forward() may do anything with a proxy
        logger.info("%s: no search for operations without modules: %s", type(network).__name__, error)
        return []


def is_leaf(module: nn.Module) -> bool:
    """Test if tracing stops at a module, which has no children.

    torchvision's modules that only move values, or do nothing in eval mode, are traced into: they would round again.
    """
    return not (isinstance(module, Permute | StochasticDepth) or any(True for _ in module.children()))


def function_name(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def computed(traced: fx.GraphModule, x: torch.Tensor) -> list[str]:
    """Return the names of the nodes outside modules that compute new values from a float tensor."""
    finder = _Finder(traced)
    with torch.no_grad():
        finder.run(x)
    return finder.operations


class _LeafTracer(fx.Tracer):
    """Traces into every module that is not a leaf."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  # fx's signature
        return is_leaf(m)


class _Finder(fx.Interpreter):
    """Runs a traced network and records functions that turn float tensors into another one."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.operations: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op in ("call_function", "call_method"):
            operands = tensors_in(self.fetch_args_kwargs_from_env(n))
            floats = [any(one.is_floating_point() for one in tensors) for tensors in (operands, tensors_in(result))]
            if function_name(n) not in MOVES and all(floats):
                self.operations.append(n.name)
        return result


def program_sha256(network: nn.Module, x: torch.Tensor) -> str:
    """Hash the program that ``network`` runs for an input shaped like ``x``: operations, their order, links, constants.

    Networks with the same modules but a different ``forward`` have different programs. Values of ``x`` do not matter,
    weights do.
    """
    recorder = _Recorder(x)
    with torch.no_grad(), recorder:
        outputs = network(x)
    text = json.dumps([recorder.lines, recorder.describe(list(tensors_in(outputs)))])
    return hashlib.sha256(text.encode()).hexdigest()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hook untyped
    """Records each operation and the origin of its operands: the input, an earlier result, or a constant."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.lines: list[Any] = [[list(x.shape), str(x.dtype), x.device.type]]
        self._origin = {id(x): "input"}
        self._alive = [x]  # an id is unique only while its tensor lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = self.describe([args, kwargs or {}])
        result = func(*args, **(kwargs or {}))
        self.lines.append([str(func), operands])
        for index, tensor in enumerate(tensors_in(result)):
            self._origin[id(tensor)] = f"{len(self.lines)}.{index}"
            self._alive.append(tensor)
        return result

    def describe(self, value: Any) -> Any:
        """Return nested operands as JSON."""
        if isinstance(value, torch.Tensor):
            return self._origin.get(id(value)) or tensor_sha256(value)
        if isinstance(value, Mapping):
            return {str(key): self.describe(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.describe(item) for item in value]
        return repr(value)
