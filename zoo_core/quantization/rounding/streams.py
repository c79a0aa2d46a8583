"""Runs the float and the rounded network side by side and stops at each layer that is to be rounded.

The network is traced once (torch.fx). Every batch of images keeps, in both runs, the few tensors from which the rest of
the network can continue, so that nothing is computed again from the image. If those tensors would be too large, the
last smaller set is kept and the layers in between run again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from zoo_core.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """Value in both runs of the network; both are the same object if no earlier layer is rounded."""

    exact: Any
    rounded: Any

    def num_bytes(self) -> int:
        """Return the memory that the value takes; numbers and shapes count as nothing."""
        values = (self.exact,) if self.exact is self.rounded else (self.exact, self.rounded)
        return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


@dataclass(slots=True)
class BatchState:
    """State of a batch inside the network.

    Attributes:
        num_images: In the batch.
        kept: The values from which the rest of the network can continue.
    """

    num_images: int
    kept: dict[fx.Node, Pair] = field(default_factory=dict)


class TwinStreams:
    """Float network and its copy that is rounded layer by layer; both run node by node.

    Args:
        network: Traceable by torch.fx, with one input; not modified.
        layers: Names of the modules that will be rounded.

    Attributes:
        layers: The names, in execution order.

    Raises:
        RecipeError: The network cannot be traced, has several inputs, or does not call one of ``layers``.
    """

    def __init__(self, network: nn.Module, layers: Collection[str]) -> None:
        # Channels-last: convolutions are faster on a CPU, and the inputs of one position are adjacent in memory.
        self._exact = copy.deepcopy(network).eval().to(memory_format=torch.channels_last)
        self._rounded = copy.deepcopy(self._exact)
        self._graph = _trace(self._exact, layers)
        inputs = [node for node in self._graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise RecipeError(
                f"The network takes {len(inputs)} inputs; the fast rounding engine supports one.",
                fix="use `engine: aimet`, or give a network whose forward takes one batch of images.",
            )
        self._input = inputs[0]
        self._calls = _calls(self._graph, layers)
        self._ancestors = _ancestors(self._graph)
        self.layers = tuple(self._calls)
        self._waiting = list(self.layers)

    def weight(self, name: str) -> Tensor:
        """Return the weight of a layer of the rounded copy."""
        return self._rounded.get_parameter(f"{name}.weight").detach()

    def set_weight(self, name: str, rows: Tensor) -> None:
        """Set the weight of a layer of the rounded copy, in any shape with as many values; then call ``mark_done``."""
        weight = self.weight(name)
        weight.copy_(rows.reshape(weight.shape))

    def new_batch(self, images: Tensor) -> BatchState:
        """Start a batch of ``(B, ...)`` images at the network's input."""
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return BatchState(len(images), {self._input: Pair(images, images)})

    def next_calls(self) -> dict[str, list[fx.Node]]:
        """Return the layers whose inputs depend on no unrounded layer, with those of their calls; empty at the end."""
        waiting = set(self._waiting)
        ready = {}
        for name in self._waiting:
            before = {call: self._layers_before(call) & waiting for call in self._calls[name]}
            if all(layers <= {name} for layers in before.values()):
                ready[name] = [call for call, layers in before.items() if not layers]
        if not ready and self._waiting:
            # Layers called in turn wait for each other: take the first call in execution order.
            first = self._waiting[0]
            ready[first] = self._calls[first][:1]
        return ready

    @torch.no_grad()
    def advance(
        self, state: BatchState, calls: Mapping[str, list[fx.Node]], limit_bytes: float
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Run a batch up to the inputs of ``calls`` and yield each layer's name, float input and rounded input.

        Args:
            state: Its ``kept`` values are replaced by later ones if these fit ``limit_bytes``.
            calls: From ``next_calls``.
            limit_bytes: For this batch.
        """
        values = dict(state.kept)
        sources = {call: _source(name, call) for name, nodes in calls.items() for call in nodes}
        for source in sources.values():
            self._evaluate(source, values)
        frontier = self._frontier(values, calls)
        if sum(pair.num_bytes() for pair in frontier.values()) <= limit_bytes:
            state.kept = frontier
        for name, nodes in calls.items():
            for call in nodes:
                pair = values[sources[call]]
                yield name, pair.exact, pair.rounded

    def mark_done(self, names: Collection[str]) -> None:
        """Mark layers of the rounded copy as holding their final weights."""
        self._waiting = [name for name in self._waiting if name not in names]

    def _layers_before(self, call: fx.Node) -> set[str]:
        return {str(node.target) for node in self._ancestors[call] if str(node.target) in self._calls}

    def _frontier(self, values: Mapping[fx.Node, Pair], calls: Mapping[str, list[fx.Node]]) -> dict[fx.Node, Pair]:
        """Return those of ``values`` that later layers than ``calls`` read directly or through open nodes."""
        remaining = [call for name in self._waiting if name not in calls for call in self._calls[name]]
        needed = set().union(*(self._ancestors[call] for call in remaining)) if remaining else set()
        open_nodes = [node for node in (*needed, *remaining) if node not in values]
        return {node: values[node] for reader in open_nodes for node in reader.all_input_nodes if node in values}

    def _evaluate(self, node: fx.Node, values: dict[fx.Node, Pair]) -> None:
        pending = [node]
        while pending:  # not recursive: a deep network would exceed Python's stack
            current = pending[-1]
            missing = [] if current in values else [n for n in current.all_input_nodes if n not in values]
            if missing:
                pending.extend(missing)
                continue
            pending.pop()
            if current not in values:
                values[current] = self._run(current, values)

    def _run(self, node: fx.Node, values: Mapping[fx.Node, Pair]) -> Pair:
        exact = _run_node(node, self._exact, {n: values[n].exact for n in node.all_input_nodes})
        same_inputs = all(values[n].exact is values[n].rounded for n in node.all_input_nodes)
        if same_inputs and str(node.target) not in self._calls:
            return Pair(exact, exact)
        return Pair(exact, _run_node(node, self._rounded, {n: values[n].rounded for n in node.all_input_nodes}))


class _LeafTracer(fx.Tracer):
    """Treats a module without children as one operation, because it may branch on shapes inside."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or next(m.children(), None) is None


def _trace(network: nn.Module, layers: Collection[str]) -> fx.Graph:
    try:
        graph = _LeafTracer().trace(network)
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        raise RecipeError(
            f"{type(network).__name__} cannot be traced by torch.fx: {error}",
            fix="use `engine: aimet`, or keep branches on values out of the network's forward.",
        ) from error
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    unused = sorted(set(layers) - called)
    if unused:
        raise RecipeError(
            f"The network never calls {', '.join(map(repr, unused))}.", fix="leave out layers that do not run."
        )
    return graph


def _calls(graph: fx.Graph, layers: Collection[str]) -> dict[str, list[fx.Node]]:
    """Return the calls of each layer, layers and calls in execution order."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in layers:
            calls.setdefault(str(node.target), []).append(node)
    return calls


def _ancestors(graph: fx.Graph) -> dict[fx.Node, set[fx.Node]]:
    ancestors: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        ancestors[node] = set(node.all_input_nodes).union(*(ancestors[n] for n in node.all_input_nodes))
    return ancestors


def _source(name: str, call: fx.Node) -> fx.Node:
    source = call.args[0] if call.args else next(iter(call.kwargs.values()), None)
    if not isinstance(source, fx.Node):
        raise RecipeError(f"Layer {name!r} is called on {source!r}, not on a tensor.", fix="leave the layer out.")
    return source


def _run_node(node: fx.Node, network: nn.Module, inputs: Mapping[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), inputs.__getitem__)
    if node.op == "call_module":
        return network.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "call_function" and callable(node.target):
        return node.target(*args, **kwargs)
    value: Any = network
    for part in str(node.target).split("."):  # "get_attr": a parameter or buffer
        value = getattr(value, part)
    return value
