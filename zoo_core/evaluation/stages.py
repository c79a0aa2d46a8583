"""Lists and selects the stages of a recipe."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zoo_core.comparison.stages import deployed_name
from zoo_core.errors import RecipeError, closest_hint
from zoo_core.quantization import pipeline

ORIGINAL = pipeline.ORIGINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Evaluated point of a recipe.

    Attributes:
        name: For example ``fp32`` or ``optimized_w8a8``.
        point: Index of the last step applied, or ORIGINAL.
        optimized: Evaluates the optimized network; with an optimized checkpoint that is a separate network.
        quantized: Simulated by quantsim, else run in float.
        runtime: Executes the exported network; None for stages that are not exported.
        same_as: An earlier stage that is the same network by definition, so that this one need not run.
    """

    name: str
    point: int
    optimized: bool
    quantized: bool
    runtime: str | None = None
    same_as: str | None = None


def all_stages(
    step_names: Sequence[str], tag: str, *, optimized_checkpoint: bool, runtimes: Sequence[str] = ()
) -> tuple[Stage, ...]:
    """List every stage of a recipe, in the order in which its networks are produced.

    Args:
        step_names: The recipe's steps without ``quantsim``.
        tag: Bit widths, e.g. ``w8a8``.
        optimized_checkpoint: The optimized network is loaded: the recipe's steps after batch-norm folding are not run
            and have no rows.
        runtimes: Names of the runtimes that execute the optimized quantized network.
    """
    folds_first = bool(step_names) and step_names[0] == "fold_batch_norms"
    plain = 0 if folds_first else ORIGINAL
    last = len(step_names) - 1
    corners = [
        Stage(name="fp32", point=ORIGINAL, optimized=False, quantized=False),
        Stage(name=tag, point=plain, optimized=False, quantized=True),
        Stage(name="optimized_fp32", point=last, optimized=True, quantized=False),
        Stage(name=f"optimized_{tag}", point=last, optimized=True, quantized=True),
    ]
    rows = []
    for index, step in enumerate(step_names[: 1 if folds_first else 0] if optimized_checkpoint else step_names):
        name = step if step_names.count(step) == 1 else f"{step}_{step_names[: index + 1].count(step)}"
        optimized = index == last and not optimized_checkpoint
        for suffix, quantized in (("fp32", False), (tag, True)):
            rows.append(Stage(name=f"{name}_{suffix}", point=index, optimized=optimized, quantized=quantized))
    deployed = [replace(corners[-1], name=deployed_name(corners[-1].name, name), runtime=name) for name in runtimes]
    return (*_share(corners, rows, optimized_checkpoint=optimized_checkpoint), *deployed)


def _share(corners: list[Stage], rows: list[Stage], *, optimized_checkpoint: bool) -> tuple[Stage, ...]:
    """Insert the rows between the corners and mark stages that are the same network under two names."""

    def network(stage: Stage) -> tuple[int, bool, bool]:
        return stage.point, stage.quantized, stage.optimized and optimized_checkpoint

    first: dict[tuple[int, bool, bool], str] = {}
    shared = []
    for stage in [*corners, *rows]:
        name = first.setdefault(network(stage), stage.name)
        shared.append(replace(stage, same_as=None if name == stage.name else name))
    return (*shared[:2], *shared[4:], *shared[2:4])


def choose(stages: Sequence[Stage], requested: str | None, tag: str) -> tuple[Stage, ...]:
    """Return the stages that a run evaluates; those of runtimes are always among them.

    Args:
        stages: From ``all_stages``.
        requested: Comma-separated names or patterns such as ``optimized_*``, ``all``, or None for the four corners.
        tag: Bit widths of the recipe.

    Raises:
        RecipeError: A name is not among ``stages``, or the simulation that a runtime is compared with is not requested.
    """
    by_name = {stage.name: stage for stage in stages}
    simulated = f"optimized_{tag}"
    corners = ("fp32", tag, "optimized_fp32", simulated)
    if requested is None:
        names: Sequence[str] = corners
    elif requested.strip() == "all":
        names = [stage.name for stage in stages]
    else:
        asked = dict.fromkeys(name.strip() for name in requested.split(",") if name.strip())
        names = [name for pattern in asked for name in fnmatch.filter(by_name, pattern) or [pattern]]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        hint = closest_hint(unknown[0], by_name) if unknown else ""
        runtime = unknown[0].removeprefix(deployed_name(simulated, "")) if unknown else ""
        if unknown and runtime != unknown[0]:
            raise RecipeError(
                f"No runtime {runtime!r} was requested, so there is no stage {unknown[0]!r}.",
                fix=f"add --runtimes {runtime}, which evaluates this stage.",
            )
        raise RecipeError(
            f"The recipe has no stage {unknown[0]!r}{hint}." if unknown else "No stage was requested.",
            fix=f"choose from {', '.join(by_name)}, or `all`.",
        )
    deployed = [stage for stage in stages if stage.runtime is not None]
    if deployed and simulated not in names:
        raise RecipeError(
            f"The stages do not include {simulated!r}, whose network runtimes execute and are compared with.",
            fix=f"add {simulated} to --stages.",
        )
    chosen = [stage for stage in stages if stage.name in names or stage.runtime is not None]
    return tuple(_standalone(stage, {other.name for other in chosen}) for stage in chosen)


def _standalone(stage: Stage, chosen: set[str]) -> Stage:
    """Drop ``same_as`` if that stage is not evaluated: this one must then run itself."""
    return stage if stage.same_as in chosen else replace(stage, same_as=None)
