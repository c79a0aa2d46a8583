"""Accounts for every float operation and every parameter of a simulated network; needs torch only.

The network runs once on an image while each tensor is followed from the operation that computes it to those that read
it, so networks that cannot be traced are accounted for like any other. docs/results.md defines the four kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.quantization.following import OUTPUT, Follower, Input, Operation, Parameter
from zoo_core.runs.parts import CoverageRecord, OperationRecord, ParameterRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from torch import nn

    from zoo_core.runs.parts import Coverage

NETWORK_INPUT = "(input)"
"""Name of the network's input in the account; no module can have it."""

_WORST_LAST: tuple[Coverage, ...] = ("folded", "quantized", "exempt", "not quantized")
_QUANTIZED: tuple[Coverage, str] = ("quantized", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Module that the simulation treats as one operation.

    Attributes:
        name: Dotted, as in ``named_modules``.
        kind: Class name.
        exempt: Reason for which the configuration leaves the output in float; empty if it does not.
        types: Operation types, as the configuration's supergroups name them.
        exempt_parameters: Reason for which the configuration leaves a parameter in float, by its name in the module.
    """

    name: str
    kind: str
    exempt: str
    types: Sequence[str]
    exempt_parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulated:
    """Simulated network as the account needs it.

    Attributes:
        network: Calibrated, in eval mode.
        units: By module.
        supergroups: Pairs of operation types that form one operation.
        quantizers: Active quantizer modules with their bits.
        output_quantizers: Those that round the output of a unit.
        parameters: By name; without the parameters of quantizers.
        parameter_quantizers: Active quantizers by parameter name.
        exempt_functions: Reason for which the configuration leaves a function's result in float, by its name in aten.
        exempt_input: Reason for which the configuration leaves the network's input in float; empty if it does not.
        exempt_output: The same for the network's outputs.
    """

    network: nn.Module
    units: Mapping[nn.Module, Unit]
    supergroups: frozenset[tuple[str, str]]
    quantizers: Mapping[nn.Module, int]
    output_quantizers: frozenset[nn.Module]
    parameters: Mapping[str, torch.Tensor]
    parameter_quantizers: Mapping[str, nn.Module]
    exempt_functions: Mapping[str, str]
    exempt_input: str
    exempt_output: str


def account(simulated: Simulated, image: torch.Tensor) -> CoverageRecord:
    """Run the network once on ``image``, ``(1, C, H, W)``, and judge what it computed.

    Raises:
        Exception: Whatever the network raises.
    """
    follower = Follower(
        units={module: unit.name for module, unit in simulated.units.items()},
        quantizers=simulated.quantizers.keys(),
        output_quantizers=simulated.output_quantizers,
        parameters=simulated.parameters,
    )
    follower.run(simulated.network, image)
    return _Account(simulated, follower).record()


def weights_bits(simulated: Simulated) -> int:
    """Sum the bits of all parameters, as far as quantizers tell; for a network without an account."""
    return sum(value.numel() * _bits(simulated, name) for name, value in simulated.parameters.items())


def _bits(simulated: Simulated, name: str) -> int:
    quantizer = simulated.parameter_quantizers.get(name)
    return 8 * simulated.parameters[name].element_size() if quantizer is None else simulated.quantizers[quantizer]


class _Account:
    """Judges what a ``Follower`` saw."""

    def __init__(self, simulated: Simulated, follower: Follower) -> None:
        self._simulated = simulated
        self._seen = follower
        self._units = {unit.name: unit for unit in simulated.units.values()}
        self._calls: dict[int, list[int]] = {}
        for index, operation in enumerate(follower.operations):
            if operation.call is not None:
                self._calls.setdefault(operation.call, []).append(index)
        self._judged_calls: dict[int, tuple[Coverage, str]] = {}

    def record(self) -> CoverageRecord:
        """Return the account."""
        parameters = tuple(self._parameter(name) for name in self._simulated.parameters)
        self._unquantized = frozenset(entry.name for entry in parameters if entry.coverage == "not quantized")
        # A reader runs after the operation that it reads and must be judged first.
        for call in reversed(range(len(self._seen.calls))):
            self._judged_calls[call] = self._judge_call(call)
        entries = [self._input(), *self._operations()]
        return CoverageRecord(operations=_merged(entries), parameters=parameters)

    def _input(self) -> OperationRecord:
        readers = self._seen.readers.get(Input(), ())
        coverage, reason = _QUANTIZED
        if readers:
            coverage, reason = "not quantized", f"read in float by {self._names(readers)}"
            if self._simulated.exempt_input:
                coverage, reason = "exempt", self._simulated.exempt_input
        return OperationRecord(name=NETWORK_INPUT, kind="input", coverage=coverage, reason=reason, macs=0)

    def _operations(self) -> Iterable[OperationRecord]:
        """Yield an entry for each call of a unit and each operation outside units, in the order of execution."""
        for what, index in self._seen.order:
            if what == "call":
                unit = self._units[self._seen.calls[index].unit]
                coverage, reason = self._judged_calls[index]
                macs = sum(self._seen.operations[own].macs for own in self._calls.get(index, ()))
                yield OperationRecord(name=unit.name, kind=unit.kind, coverage=coverage, reason=reason, macs=macs)
            else:
                operation = self._seen.operations[index]
                coverage, reason = self._judge_outside(operation)
                name = operation.module or "(network)"
                yield OperationRecord(
                    name=name, kind=operation.kind, coverage=coverage, reason=reason, macs=operation.macs
                )
        for module, kind in self._seen.moves:
            reason = "only moves or selects values"
            yield OperationRecord(name=module or "(network)", kind=kind, coverage="folded", reason=reason, macs=0)
        for module, kind in self._seen.idle:
            yield OperationRecord(name=module, kind=kind, coverage="folded", reason="computes nothing", macs=0)

    def _largest_in_float(self, operation: Operation) -> str | None:
        names = sorted(self._unquantized & operation.parameters)
        return max(names, key=lambda name: self._simulated.parameters[name].numel(), default=None)

    def _judge_outside(self, operation: Operation) -> tuple[Coverage, str]:
        in_float = self._largest_in_float(operation)
        if in_float is not None:
            return "not quantized", f"computes with {in_float} in float"
        if operation.quantized and not operation.readers:
            return _QUANTIZED
        if operation.kind in self._simulated.exempt_functions:
            return "exempt", self._simulated.exempt_functions[operation.kind]
        return "not quantized", "is not a module that the simulation knows"

    def _judge_call(self, index: int) -> tuple[Coverage, str]:
        call, own = self._seen.calls[index], self._calls.get(index, [])
        if not own:
            return _QUANTIZED if call.quantized else ("folded", "only moves or selects values")
        judged = [self._judge_part(call.unit, part, own) for part in own]
        return max(judged, key=lambda found: _WORST_LAST.index(found[0]))

    def _judge_part(self, unit_name: str, part: int, own: Sequence[int]) -> tuple[Coverage, str]:
        """Judge an operation within a unit; steps between the first and the last belong to the unit."""
        operation, unit = self._seen.operations[part], self._units[unit_name]
        in_float = self._largest_in_float(operation)
        if in_float is not None:
            return "not quantized", f"computes with {in_float} in float"
        operands = [other for other in own if part in self._seen.operations[other].readers]
        if operation.macs and operands:
            return "not quantized", "multiplies a value computed within that no quantizer rounds"
        outside = [reader for reader in operation.readers if reader not in own]
        if not outside and operation.readers:
            products = [other for other in own if self._seen.operations[other].macs]
            if operation.macs and len(products) > 1 and not operation.quantized:
                return "not quantized", "has a product within whose result no quantizer rounds"
            return _QUANTIZED
        if operation.quantized and not outside:
            return _QUANTIZED
        if unit.exempt:
            return "exempt", unit.exempt
        if outside and all(reader == OUTPUT for reader in outside) and self._simulated.exempt_output:
            return "exempt", self._simulated.exempt_output
        partner = self._partner(unit, outside)
        if partner is not None:
            return "exempt", f"one operation with {partner}"
        return "not quantized", "no quantizer rounds its output"

    def _partner(self, unit: Unit, readers: Sequence[int]) -> str | None:
        """Return the unit that is one operation with ``unit``: its only reader, and accounted for itself."""
        names = {self._reader_unit(reader) for reader in readers}
        if len(names) != 1 or (name := names.pop()) is None:
            return None
        pairs = {(first, second) for first in unit.types for second in self._units[name].types}
        if not pairs & self._simulated.supergroups:
            return None
        calls = {self._seen.operations[reader].call for reader in readers}
        judged = [self._judged_calls[call][0] for call in calls if call is not None]
        return name if "not quantized" not in judged else None

    def _reader_unit(self, reader: int) -> str | None:
        call = self._seen.operations[reader].call if reader >= 0 else None
        return None if call is None else self._seen.calls[call].unit

    def _parameter(self, name: str) -> ParameterRecord:
        simulated = self._simulated
        readers = self._seen.readers.get(Parameter(name), ())
        bits = 8 * simulated.parameters[name].element_size()
        coverage: Coverage = "quantized"
        reason = ""
        if readers:
            coverage = "exempt"
            reason = self._exemption(name.rpartition(".")[2], readers)
            if not reason:
                coverage, reason = "not quantized", f"read in float by {self._names(readers)}"
        elif Parameter(name) in self._seen.quantized:
            bits = list(simulated.quantizers.values())[self._seen.quantized[Parameter(name)]]
        else:
            coverage, reason, bits = "folded", "no operation reads it", _bits(simulated, name)
        return ParameterRecord(
            name=name,
            num_values=simulated.parameters[name].numel(),
            bits=bits,
            coverage=coverage,
            reason=reason,
        )

    def _exemption(self, name: str, readers: Iterable[int]) -> str:
        """Return the reason for which the configuration lets all readers of a parameter use it in float, or nothing."""
        units = [self._units[unit] if (unit := self._reader_unit(reader)) else None for reader in readers]
        reasons = {unit.exempt_parameters.get(name, "") if unit is not None else "" for unit in units}
        return reasons.pop() if len(reasons) == 1 else ""

    def _names(self, readers: Iterable[int]) -> str:
        first = min(readers)
        if first < 0:
            return "the network's output" if first == OUTPUT else "a value in Python"
        operation = self._seen.operations[first]
        return self._reader_unit(first) or f"{operation.kind} in {operation.module or 'the network'}"


def _merged(entries: Iterable[OperationRecord]) -> tuple[OperationRecord, ...]:
    """Add up entries that differ in their MACs only."""
    macs: dict[tuple[Any, ...], int] = {}
    for entry in entries:
        key = (entry.name, entry.kind, entry.coverage, entry.reason)
        macs[key] = macs.get(key, 0) + entry.macs
    return tuple(
        OperationRecord(name=name, kind=kind, coverage=coverage, reason=reason, macs=total)
        for (name, kind, coverage, reason), total in macs.items()
    )
