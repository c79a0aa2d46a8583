"""Recipes, the steps that they name, and what a step receives and returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from zoo_core.datatypes.predictions import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """Entry of a recipe: a step's name and its parameters, not yet checked by the step."""

    step: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Ordered list of quantization steps.

    Attributes:
        name: As given in the file.
        steps: In order; the last one is ``quantsim``, with bit widths, scheme and config file.
        source: The file it was read from; paths inside the recipe are relative to it.
        sha256: Of the recipe's content as used: file bytes and overrides.
    """

    name: str
    description: str
    steps: tuple[StepSpec, ...]
    source: Path
    sha256: str


class CalibrationBatches(Protocol):
    """Preprocessed calibration images; may be iterated any number of times, always in the same order."""

    num_images: int

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield ``(B, C, H, W)`` float32 batches on the run's device."""
        ...

    def __len__(self) -> int:
        """Return the number of batches."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSettings:
    """Number formats: the recipe's ``quantsim`` parameters, which earlier steps must also use.

    Attributes:
        param_bw: Bits of a weight.
        output_bw: Bits of an activation.
        quant_scheme: ``tf_enhanced`` (SQNR range search) or ``tf`` (min-max).
        config_file: AIMET configuration: symmetry, per-channel, exceptions from quantization.
        input: Replaces ``model_input.is_input_quantized`` of the configuration; None leaves the configuration's.
    """

    param_bw: int
    output_bw: int
    quant_scheme: Literal["tf", "tf_enhanced"]
    config_file: Path
    input: Literal["float", "quantized"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantNetwork:
    """Float network between two steps of a recipe.

    Attributes:
        network: In eval mode. Never modified: a step returns a new one.
        param_encodings: Encodings fixed by a step, by parameter name, in AIMET's exchange form; quantsim freezes them
            before it calibrates activations. Empty before a rounding step.
    """

    network: torch.nn.Module
    param_encodings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepContext:
    """Inputs that a step may use.

    Attributes:
        example_input: On the run's device.
        calibration: Preprocessed calibration images.
        quant: Bit widths and scheme that the network will be simulated with.
        seed: Seeds every random choice of the step.
        work_dir: An existing directory for temporary files, removed with the run's temporary data.
        progress: Call with (done, total, what) to update the step's progress bar.
        cache_dir: Directory in which a step may cache results across runs; it need not exist. None disables caching.
    """

    example_input: torch.Tensor
    calibration: CalibrationBatches
    quant: QuantSettings
    seed: int
    work_dir: Path
    progress: Callable[[int, int, str], None]
    cache_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepResult:
    """Result of a step.

    Attributes:
        result: The new network.
        effect: Facts for the record, e.g. ``{"num_layer_sets": 33}``.
        summary: The effect in one line of text.
        name: Name of the step, filled in by the pipeline.
        seconds: Wall time, filled in by the pipeline.
    """

    result: QuantNetwork
    effect: Mapping[str, Json]
    summary: str
    name: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeStep:
    """Quantization step that recipes can name.

    Attributes:
        name: Unique among all plugins.
        params: Pydantic model of its parameters; forbids unknown keys and documents each.
        apply: Returns a new network for a network; must not modify its input.
        fixes_encodings: The step fixes weight encodings. A later step that changes weights would undo it, so that
            order is refused before the run.
    """

    name: str
    params: type[BaseModel]
    apply: Callable[[QuantNetwork, Any, StepContext], StepResult]
    fixes_encodings: bool = False
