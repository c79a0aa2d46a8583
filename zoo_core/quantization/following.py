"""Follows tensors through one forward pass, from the operation that computes a value to its quantizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from zoo_core.quantization.graph import tensors_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import nn

_FORMULAS = {
    # torch 2.8 counts this kernel's products on a GPU only.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention
    ],
    **flop_registry,
}

OUTPUT = -1
"""Reader of a tensor that the network returns."""

VALUE = -2
"""Reader of a tensor that leaves torch's float arithmetic: a comparison, an index, a Python number."""

_MOVES = frozenset(
    [
        "alias",
        "clone",
        "contiguous",
        "copy",
        "copy_",
        "_to_copy",
        "lift",
        "lift_fresh",
        "cat",
        "stack",
        "constant_pad_nd",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "roll",
        "flip",
        "rot90",
        "repeat",
        "repeat_interleave",
        "tile",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "native_channel_shuffle",
        "im2col",
        "index",
        "index_select",
        "gather",
        "take",
        "take_along_dim",
        "embedding",
        "masked_select",
        "slice_scatter",
        "select_scatter",
        "index_put",
        "index_put_",
        "scatter",
        "scatter_",
        "index_copy",
        "index_copy_",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "amax",
        "amin",
        "topk",
        "sort",
        "kthvalue",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "_unsafe_view",
        "_reshape_copy",
        "view_copy",
        "permute_copy",
        "expand_copy",
        "slice_copy",
        "select_copy",
        "split_copy",
        "unbind_copy",
        "zero_",
        "fill_",
        "detach",
        "mkldnn_max_pool2d",
    ]
)
"""Operations of aten that compute no value which was not in an operand."""


@dataclass(frozen=True, slots=True)
class Input:
    """Source of the network's input."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Source of a parameter, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Rounded:
    """Source of the values that a quantizer rounded, by the quantizer's index."""

    quantizer: int


@dataclass(frozen=True, slots=True)
class Computed:
    """Source of the values that an operation computed, by the operation's index."""

    operation: int


@dataclass(frozen=True, slots=True)
class Constant:
    """Source of values that depend on neither the input nor a parameter, and are not all zero."""


Source: TypeAlias = Constant | Input | Parameter | Rounded | Computed
Sources: TypeAlias = frozenset[Source]

_NOTHING: Sources = frozenset()
"""Sources of a constant."""


@dataclass(slots=True, kw_only=True)
class Operation:
    """Float operation that computes new values.

    Attributes:
        call: Index of the call of a unit that it belongs to; None outside units.
        module: Name of the innermost module.
        kind: Its name in aten.
        macs: Multiplications of a convolution or matrix product; 0 for any other.
        parameters: Names of the parameters that it reads in float.
        readers: Operations that read its result in float, ``OUTPUT`` or ``VALUE``.
        quantized: A quantizer reads its result.
    """

    call: int | None
    module: str
    kind: str
    macs: int
    parameters: frozenset[str]
    readers: set[int] = field(default_factory=set)
    quantized: bool = False


@dataclass(slots=True, kw_only=True)
class Call:
    """Call of a unit; ``quantized`` if a quantizer of its outputs ran."""

    unit: str
    quantized: bool = False


class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hook untyped
    """Records the operations of one forward pass.

    A tensor is known by its storage: views share it, and whatever takes its place in memory is seen when it is made.

    Args:
        units: Names of the modules that count as one operation.
        quantizers: Modules that round a tensor; what they compute is not recorded.
        output_quantizers: Those that round a unit's output.
        parameters: By name.

    Attributes:
        operations: In the order of execution.
        calls: Calls of units, in the order in which they began.
        order: Calls and the operations outside units, as they began.
        readers: Operations that read the input or a parameter in float, by source.
        quantized: Index of the quantizer that read a source.
        moves: Module and kind of operations outside units that compute no new value.
        idle: Name and class of modules without children that ran and computed nothing.
    """

    def __init__(
        self,
        *,
        units: Mapping[nn.Module, str],
        quantizers: Iterable[nn.Module],
        output_quantizers: Collection[nn.Module],
        parameters: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.operations: list[Operation] = []
        self.calls: list[Call] = []
        self.order: list[tuple[Literal["call", "operation"], int]] = []
        self.readers: dict[Source, set[int]] = {}
        self.quantized: dict[Source, int] = {}
        self.moves: dict[tuple[str, str], None] = {}
        self.idle: dict[tuple[str, str], None] = {}
        self._units = units
        self._quantizers = {quantizer: index for index, quantizer in enumerate(quantizers)}
        self._output_quantizers = output_quantizers
        self._sources: dict[int, Sources] = {
            _key(value): frozenset({Parameter(name)}) for name, value in parameters.items()
        }
        self._stack: list[tuple[str, int | None, int]] = []
        self._num_seen = 0
        self._quantizing = 0

    def run(self, network: nn.Module, image: torch.Tensor) -> None:
        """Run ``network`` on ``image`` and record it."""
        image = image.clone()  # a storage of its own
        self._sources[_key(image)] = frozenset({Input()})
        inside = {part for quantizer in self._quantizers for part in quantizer.modules()}
        handles = []
        for name, module in network.named_modules():
            if module in self._quantizers:
                handles += [
                    module.register_forward_pre_hook(self._enter_quantizer),
                    module.register_forward_hook(self._leave_quantizer),
                ]
            elif module not in inside:
                before, after = self._module_hooks(name, module)
                handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            with torch.no_grad(), self:
                outputs = network(image)
        finally:
            for handle in handles:
                handle.remove()
        for tensor in tensors_in(outputs):
            self._read(self._sources_of(tensor), OUTPUT)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._quantizing:
            return self._forget(func(*args, **kwargs), [args, kwargs])
        operands = [tensor for tensor in tensors_in([args, kwargs]) if _is_float(tensor)]
        sources = [(tensor, self._sources_of(tensor)) for tensor in operands]
        if _moves(func, args, kwargs):  # zero is on every grid, another constant is not
            sources = [(tensor, known or _constant(tensor)) for tensor, known in sources]
        result = func(*args, **kwargs)
        self._record(func, sources, result, args, kwargs)
        return result

    def _forget(self, result: Any, operands: Any) -> Any:
        """Forget what lay where a quantizer makes a tensor of its own; encodings outlive the call."""
        kept = {_key(tensor) for tensor in tensors_in(operands)}
        for tensor in tensors_in(result):
            if _key(tensor) not in kept:
                self._sources.pop(_key(tensor), None)
        return result

    def _record(
        self, func: Any, operands: list[tuple[torch.Tensor, Sources]], result: Any, args: Any, kwargs: Any
    ) -> None:
        results = [tensor for tensor in tensors_in(result) if _is_float(tensor)]
        mutates = func._schema.is_mutable
        kept = _NOTHING
        if mutates and results:
            # What is overwritten is no operand of a copy; a part that is not overwritten stays.
            target = results[0]
            previous = next((known for tensor, known in operands if _key(tensor) == _key(target)), _NOTHING)
            kept = _NOTHING if target.numel() == _num_stored(target) else previous
            if _moves(func, args, kwargs):
                operands = [(tensor, known) for tensor, known in operands if _key(tensor) != _key(target)]
        read = _NOTHING.union(*(known for _, known in operands))
        if not (read | kept) - {Constant()}:
            read = kept = _NOTHING
        if not results:
            self._read(read, VALUE)
            return
        if not mutates and _key(results[0]) in {_key(tensor) for tensor, _ in operands}:
            return  # a view
        self._num_seen += 1
        name = _name(func)
        if _moves(func, args, kwargs) and len(read | kept) <= 1:
            self._set(results, read | kept)
            if read and self._call() is None:
                self.moves[(self._module(), name)] = None
        elif not read | kept:
            self._set(results, _NOTHING)
        else:
            self._set(results, (kept - {Constant()}) | {self._add(func, name, read, args, kwargs, result)})

    def _add(self, func: Any, name: str, read: Sources, args: Any, kwargs: Any, result: Any) -> Computed:
        index, call = len(self.operations), self._call()
        formula = _FORMULAS.get(func.overloadpacket)
        macs = 0 if formula is None else int(formula(*args, **kwargs, out_val=result)) // 2
        self.operations.append(
            Operation(
                call=call,
                module=self._module(),
                kind=name.strip("_"),
                macs=macs,
                parameters=frozenset(source.name for source in read if isinstance(source, Parameter)),
            )
        )
        if call is None:
            self.order.append(("operation", index))
        self._read(read, index)
        return Computed(index)

    def _read(self, sources: Sources, reader: int) -> None:
        for source in sources:
            if isinstance(source, Computed):
                self.operations[source.operation].readers.add(reader)
            else:
                self.readers.setdefault(source, set()).add(reader)

    def _sources_of(self, tensor: torch.Tensor) -> Sources:
        return self._sources.get(_key(tensor), _NOTHING)

    def _set(self, results: list[torch.Tensor], sources: Sources) -> None:
        for tensor in results:
            self._sources[_key(tensor)] = sources

    # ------------------------------------------------------------------ modules

    def _module(self) -> str:
        return self._stack[-1][0] if self._stack else ""

    def _call(self) -> int | None:
        return next((call for _, call, _ in reversed(self._stack) if call is not None), None)

    def _module_hooks(self, name: str, module: nn.Module) -> tuple[Any, Any]:
        unit = self._units.get(module)
        children = (child for child in module.modules() if child is not module)
        is_leaf = unit is not None or not any(True for _ in children)

        def before(_module: nn.Module, _args: Any) -> None:
            call = None
            if unit is not None:
                call = len(self.calls)
                self.calls.append(Call(unit=unit))
                self.order.append(("call", call))
            self._stack.append((name, call, self._num_seen))

        def after(own: nn.Module, _args: Any, _output: Any) -> None:
            _, call, num_before = self._stack.pop()
            if self._call() is None and call is None and is_leaf and self._num_seen == num_before:
                self.idle[(name, type(own).__name__)] = None

        return before, after

    def _enter_quantizer(self, _module: nn.Module, _args: Any) -> None:
        self._quantizing += 1

    def _leave_quantizer(self, module: nn.Module, args: Any, output: Any) -> None:
        self._quantizing -= 1
        for tensor in tensors_in(args):
            for source in self._sources_of(tensor):
                self.quantized.setdefault(source, self._quantizers[module])
                if isinstance(source, Computed):
                    self.operations[source.operation].quantized = True
        self._set(list(tensors_in(output)), frozenset({Rounded(self._quantizers[module])}))
        call = self._call()
        if call is not None and module in self._output_quantizers:
            self.calls[call].quantized = True


def _is_float(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _num_stored(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _constant(tensor: torch.Tensor) -> Sources:
    return frozenset({Constant()}) if tensor.numel() and bool(tensor.any()) else _NOTHING


def _moves(func: Any, args: Any, kwargs: Any) -> bool:
    """Test if a call of an operation computes no value that was not in an operand, zero excepted."""
    name = _name(func)
    if name not in _MOVES:
        return False
    if name in ("constant_pad_nd", "fill_"):
        value = kwargs.get("value", args[-1] if len(args) == (3 if name == "constant_pad_nd" else 2) else 0)
        return isinstance(value, int | float) and value == 0
    if name.startswith(("index_put", "scatter")):
        return not kwargs.get("accumulate", len(args) > 3 and args[3] is True) and "reduce" not in str(func)
    return True


def _name(func: Any) -> str:
    return str(func.overloadpacket.__name__)
