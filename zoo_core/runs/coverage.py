"""Shares and sentences about what a quantized stage computes in float, from its account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo_core.runs.parts import CoverageRecord, OperationRecord, ParameterRecord, SimulationRecord

NOT_QUANTIZED = "not quantized"
NUM_NAMED = 3

FULL_QUANTIZATION_FIX = (
    "make these operations modules with quantizers, exempt them in the AIMET configuration, or leave out "
    "--require-full-quantization; run.json lists them all under simulations."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unquantized:
    """Operations and parameters of a stage that are not quantized, with their shares of the whole in ``[0, 1]``."""

    operations: tuple[OperationRecord, ...]
    parameters: tuple[ParameterRecord, ...]
    share_of_macs: float
    share_of_values: float

    def __bool__(self) -> bool:
        return bool(self.operations or self.parameters)

    @property
    def shares(self) -> str:
        """Return both shares as text."""
        return f"{_percent(self.share_of_macs)} of the MACs and {_percent(self.share_of_values)} of the parameters"

    def __str__(self) -> str:
        named = []
        if self.operations:
            listed = _first_of(_operation_text(operation) for operation in self.operations)
            named.append(f"{_count(self.operations, 'operation')} ({listed})")
        if self.parameters:
            listed = _first_of(parameter.name for parameter in self.parameters)
            named.append(f"{_count(self.parameters, 'parameter')} ({listed})")
        return f"{' and '.join(named)} not quantized, {self.shares}"


def unquantized(coverage: CoverageRecord) -> Unquantized:
    """Select what is not quantized, the most MACs and the most values first."""
    operations = [operation for operation in coverage.operations if operation.coverage == NOT_QUANTIZED]
    parameters = [parameter for parameter in coverage.parameters if parameter.coverage == NOT_QUANTIZED]
    return Unquantized(
        operations=tuple(sorted(operations, key=lambda operation: -operation.macs)),
        parameters=tuple(sorted(parameters, key=lambda parameter: -parameter.num_values)),
        share_of_macs=_share(
            (operation.macs for operation in operations), (operation.macs for operation in coverage.operations)
        ),
        share_of_values=_share(
            (parameter.num_values for parameter in parameters),
            (parameter.num_values for parameter in coverage.parameters),
        ),
    )


def coverage_warning(stage: str, coverage: CoverageRecord | None, error: str = "") -> str | None:
    """Return the warning of a stage that computes in float what its configuration quantizes; None if it does not.

    Args:
        stage: Name of the stage.
        coverage: Its account; None if it could not be made.
        error: The reason for which it could not be made.
    """
    if coverage is None:
        return f"{stage}: not known what is quantized; the network could not be accounted for: {error or 'no reason'}"
    found = unquantized(coverage)
    return f"{stage}: {found}." if found else None


def simulation_warning(stage: str, simulation: SimulationRecord) -> str | None:
    """Return ``coverage_warning`` of a recorded simulation."""
    return coverage_warning(stage, simulation.coverage, str(simulation.effect.get(COVERAGE_ERROR, "")))


COVERAGE_ERROR = "coverage_error"
"""Key in the effect of a simulation whose network could not be accounted for."""


def summary(coverage: CoverageRecord) -> str:
    """Count operations and parameters by kind, in one line."""
    texts = []
    for what, entries in (("operations", coverage.operations), ("parameters", coverage.parameters)):
        kinds = [entry.coverage for entry in entries]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds)))
        texts.append(f"{what}: {counts or 'none'}")
    return "; ".join(texts)


def _operation_text(operation: OperationRecord) -> str:
    return f"{operation.kind} in {operation.name}"


def _first_of(names: Iterable[str]) -> str:
    listed = list(names)
    more = f", and {len(listed) - NUM_NAMED} more" if len(listed) > NUM_NAMED else ""
    return ", ".join(listed[:NUM_NAMED]) + more


def _count(items: tuple[object, ...], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _share(part: Iterable[int], whole: Iterable[int]) -> float:
    total = sum(whole)
    return sum(part) / total if total else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
