"""Looking at a network while it runs, and exchanging its modules; torch alone, no quantization tool."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_core.quantization.cache import tensor_sha256

logger = logging.getLogger("zoo_eval.quantization")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo_core.datatypes import StepContext


OUTPUT = "(output)"
"""Reader of a tensor that the network returns; no module can have this name."""

_ARITHMETIC = frozenset({"add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "truediv", "div", "cat"})


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists and mappings, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def probe_image(context: StepContext) -> torch.Tensor:
    """The first calibration image, ``(1, C, H, W)``: real data, because an example input may be all zeros."""
    for batch in context.calibration:
        return batch[:1].to(context.example_input.device)
    return context.example_input


def relative_change(before: nn.Module, after: nn.Module, x: torch.Tensor) -> float:
    """How far two networks' outputs for ``x`` lie apart: largest difference over largest magnitude, worst output.

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
    """Put ``module`` in the place that ``name`` (dotted, as in ``named_modules``) denotes."""
    parent_name, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent_name), child, module)


def output_shapes(network: nn.Module, x: torch.Tensor, names: list[str]) -> dict[str, list[torch.Size]]:
    """The shape of each call's output, by module name; an empty list for a module that did not run."""
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
    """Which modules without children read each such module's output directly, by module name.

    A tensor is followed by its identity through one forward pass, so what passes it on unchanged (``nn.Identity``,
    which batch-norm folding leaves behind) is left out and hides nobody. A tensor that the network returns has
    ``OUTPUT`` among its readers. Functions outside modules (``reshape``) are not seen.
    """
    made_by: dict[int, str] = {}
    alive: list[torch.Tensor] = []  # an id is unique only while its tensor lives
    found: dict[str, list[str]] = {}

    def before(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any) -> None:
            for tensor in tensors_in(args):
                if id(tensor) in made_by:
                    found[made_by[id(tensor)]].append(name)

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            given = {id(tensor) for tensor in tensors_in(args)}
            for tensor in tensors_in(output):
                if id(tensor) not in given:
                    made_by[id(tensor)] = name
                    found.setdefault(name, [])
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
        if id(tensor) in made_by:
            found[made_by[id(tensor)]].append(OUTPUT)
    return found


def sole_consumers(network: nn.Module, x: torch.Tensor) -> dict[str, str]:
    """Of ``direct_consumers``, the modules whose output goes to one other module and nowhere else."""
    readers = direct_consumers(network, x)
    return {name: found[0] for name, found in readers.items() if len(found) == 1 and found[0] != OUTPUT}


def functional_arithmetic(network: nn.Module, x: torch.Tensor) -> list[str]:
    """Names of the additions, products and concatenations of tensors that ``network`` computes outside any module.

    Empty for a network that ``torch.fx`` cannot trace: nothing is known about it then.
    """
    try:
        traced = fx.GraphModule(network, _LeafTracer().trace(network))
    except Exception as error:  # whatever a foreign forward() does with a proxy
        logger.info("%s: no search for arithmetic without modules: %s", type(network).__name__, error)
        return []
    finder = _Finder(traced)
    with torch.no_grad():
        finder.run(x)
    return finder.found


class _LeafTracer(fx.Tracer):
    """Looks into every module that has children."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  # fx's signature
        return not any(True for _ in m.children())


class _Finder(fx.Interpreter):
    """Runs a traced network and notes arithmetic whose operands are tensors; sizes are computed alike."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("call_function", "call_method"):
            name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
            operands = list(tensors_in(self.fetch_args_kwargs_from_env(n)))
            if name in _ARITHMETIC and len(operands) > 1:
                self.found.append(n.name)
        return super().run_node(n)


def program_sha256(network: nn.Module, x: torch.Tensor) -> str:
    """A hash of what ``network`` computes for an input shaped like ``x``: operations, their order, links and constants.

    Two networks of one structure whose ``forward`` differs have different programs. Values of ``x`` do not matter,
    weights do.
    """
    recorder = _Recorder(x)
    with torch.no_grad(), recorder:
        outputs = network(x)
    text = json.dumps([recorder.lines, recorder.describe(list(tensors_in(outputs)))])
    return hashlib.sha256(text.encode()).hexdigest()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hook untyped
    """Notes each operation with where its operands come from: the input, an earlier result, or a constant."""

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
        """JSON of nested operands."""
        if isinstance(value, torch.Tensor):
            return self._origin.get(id(value)) or tensor_sha256(value)
        if isinstance(value, Mapping):
            return {str(key): self.describe(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.describe(item) for item in value]
        return repr(value)
