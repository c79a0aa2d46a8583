"""Checks that the recipe runs, with as little work as each step allows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckFailedError, CheckWarningError, NotCheckedError
from zoo_core.conformance.subject import CPU
from zoo_core.datatypes import QuantNetwork
from zoo_core.inference import run_batch
from zoo_core.quantization import pipeline
from zoo_core.runs.coverage import coverage_warning, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo_core.conformance.subject import Subject
    from zoo_core.datatypes import StepContext
    from zoo_core.quantization.pipeline import BoundStep, RecipePoint

ONE_OF = ("num_iterations", "num_batches", "num_epochs")
"""Parameters that are set to 1 where a step has them: the checks ask whether a step works, not how well."""


def check_steps(subject: Subject) -> str:
    """Run every step of the recipe, then the simulation; each must give a network that computes."""
    context = subject.step_context()
    parts = []
    for point in _points(subject, context):
        network = point.network
        if point.step is not None:
            _check_computes(subject, network.network, f"After the step {point.step.name!r} the network")
            parts.append(f"{point.step.name} {point.step.seconds:.1f} s")
    try:
        simulation = pipeline.simulate(network, context)
    except Exception as error:
        raise _failure("The network cannot be simulated", error) from error
    subject.simulation = simulation
    _check_computes(subject, simulation.network, "The quantized network")
    return ", ".join([*parts, f"quantsim {simulation.seconds:.1f} s"])


def _points(subject: Subject, context: StepContext) -> Iterator[RecipePoint]:
    plan = dataclasses.replace(subject.plan, steps=tuple(_shortened(bound) for bound in subject.plan.steps))
    started: list[str] = []
    try:
        original = QuantNetwork(network=subject.bundle.network)
        yield from pipeline.walk(plan, original, lambda: context, before_step=started.append)
    except Exception as error:
        raise _failure(f"The step {started[-1]!r} failed", error) from error


def _shortened(bound: BoundStep) -> BoundStep:
    update = {name: 1 for name in ONE_OF if name in type(bound.params).model_fields}
    return pipeline.BoundStep(step=bound.step, params=bound.params.model_copy(update=update))


def _failure(what: str, error: Exception) -> CheckFailedError:
    reason = getattr(error, "fact", None) or f"{type(error).__name__}: {error}"
    return CheckFailedError(
        f"{what}: {reason}", fix=getattr(error, "fix", "look at the traceback; `--verbose` shows it.")
    )


def _check_computes(subject: Subject, network: torch.nn.Module, what: str) -> None:
    outputs = run_batch(network, subject.inputs, CPU)
    for output, original in zip(outputs, subject.outputs, strict=True):
        if output.shape != original.shape or not torch.isfinite(output).all():
            raise CheckFailedError(
                f"{what} gives {tuple(output.shape)}, finite: {bool(torch.isfinite(output).all())}; the original gives "
                f"{tuple(original.shape)}.",
                fix="look at the step, and at operations without a module in forward().",
            )


def check_coverage(subject: Subject) -> str:
    """Every operation and parameter of the simulation is quantized, exempt or folded away."""
    simulation = subject.simulation
    if simulation is None:
        raise NotCheckedError("the recipe did not run, see the check above")
    text = coverage_warning("the quantized network", simulation.coverage, simulation.coverage_error)
    if text is not None:
        raise CheckWarningError(
            text,
            fix="write these operations as modules, or exempt them in the AIMET configuration.",
        )
    return summary(simulation.coverage) if simulation.coverage is not None else ""


CHECKS = (
    Check(name="every step of the recipe runs", make=check_steps),
    Check(name="everything is quantized", make=check_coverage),
)
