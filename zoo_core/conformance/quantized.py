"""The recipe, run on the network with as little work as each step allows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckFailedError
from zoo_core.conformance.subject import CPU
from zoo_core.datatypes import QuantNetwork
from zoo_core.inference import run_batch
from zoo_core.quantization import pipeline

if TYPE_CHECKING:
    from zoo_core.conformance.subject import Subject
    from zoo_core.quantization.pipeline import BoundStep

ONE_OF = ("num_iterations", "num_batches", "num_epochs")
"""Parameters that are set to 1 where a step has them: what they do is checked, not how well."""


def check_steps(subject: Subject) -> str:
    """Every step of the recipe runs, gives a network that computes, and leaves the one it was given as it is."""
    context = subject.step_context()
    network = QuantNetwork(network=subject.bundle.network)
    told = []
    for bound in subject.plan.steps:
        started = time.perf_counter()
        try:
            network = pipeline.run_step(_lightened(bound), network, context).result
        except Exception as error:
            raise CheckFailedError(
                f"The step {bound.step.name!r} failed: {getattr(error, 'fact', None) or _named(error)}",
                fix=getattr(error, "fix", "look at the traceback; `--verbose` shows it."),
            ) from error
        _check_computes(subject, network.network, f"After the step {bound.step.name!r} the network")
        told.append(f"{bound.step.name} {time.perf_counter() - started:.1f} s")
    try:
        simulation = pipeline.simulate(network, context)
    except Exception as error:
        raise CheckFailedError(
            f"The network cannot be simulated: {getattr(error, 'fact', None) or _named(error)}",
            fix=getattr(error, "fix", "look at the traceback; `--verbose` shows it."),
        ) from error
    _check_computes(subject, simulation.network, "The quantized network")
    return ", ".join([*told, f"quantsim {simulation.seconds:.1f} s"])


def _lightened(bound: BoundStep) -> BoundStep:
    update = {name: 1 for name in ONE_OF if name in type(bound.params).model_fields}
    return pipeline.BoundStep(step=bound.step, params=bound.params.model_copy(update=update))


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _check_computes(subject: Subject, network: torch.nn.Module, what: str) -> None:
    outputs = run_batch(network, subject.inputs, CPU)
    for found, due in zip(outputs, subject.outputs, strict=True):
        if found.shape != due.shape or not torch.isfinite(found).all():
            raise CheckFailedError(
                f"{what} gives {tuple(found.shape)}, finite: {bool(torch.isfinite(found).all())}; the original gives "
                f"{tuple(due.shape)}.",
                fix="look at the step, and at operations without a module in forward().",
            )


CHECKS = (Check(name="every step of the recipe runs", make=check_steps),)
