"""Fast engine of the step ``adaround``: adaptive rounding in minutes on a CPU.

Layers are rounded in execution order, so that each layer's output on the calibration images stays as close as possible
to the float network's while all earlier layers are already rounded. ``docs/adaround.md`` derives the method and
compares it with AIMET's.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from zoo_core.errors import RecipeError
from zoo_core.quantization.cache import Part, StepCache
from zoo_core.quantization.rounding.lattice import LatticeProblem, solve
from zoo_core.quantization.rounding.moments import ReconstructionError, num_positions
from zoo_core.quantization.rounding.streams import TwinStreams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, fx

    from zoo_core.datatypes import CalibrationBatches, Json
    from zoo_core.quantization.rounding.moments import RoundableLayer
    from zoo_core.quantization.rounding.streams import BatchState

Choices = Literal["floor_ceil", "free"]

SAMPLES_PER_WEIGHT = 64
"""Output positions per weight of a filter that a layer's statistics use, over all images ..."""
MIN_SAMPLES = 4_096
"""... and at least; a layer with fewer uses all."""
POSITIONS_PER_IMAGE = 64
"""Limit of positions from one image: neighbouring positions have nearly the same inputs."""
SHRINKAGE = 0.3
"""Damping: this times (weights of a filter / samples) times its mean is added to the diagonal of the second moments.

With few samples per weight the moments overfit the calibration images. Chosen on other images; see
``docs/adaround.md``.
"""
_IMAGES_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightGrid:
    """Values that a layer's weights may take: ``(q + offset) * scale`` for ``q`` in ``0 .. 2**bw - 1``.

    This is AIMET's convention: ``q = clamp(round(w / scale) - offset, 0, 2**bw - 1)``. A signed symmetric grid has
    offset ``-2**(bw - 1)``.

    Attributes:
        scale: ``(1,)``, or ``(C_out,)`` for one grid per channel; positive.
        offset: Shaped like ``scale``; integers, usually negative.
        bw: Bits of a weight.
    """

    scale: Tensor
    offset: Tensor
    bw: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """Result of rounding one layer.

    Attributes:
        name: Of the module.
        num_weights: In the layer.
        num_changed: Weights that were not rounded to the nearest grid point.
        error_nearest: Squared output error of nearest rounding divided by the float output's sum of squares, on the
            calibration images and with every earlier layer rounded as in the result.
        error: The same for the chosen rounding.
        num_samples: Output positions that both were measured on.
        seconds: Wall time of the search and of the layer's share of the capture.
    """

    name: str
    num_weights: int
    num_changed: int
    error_nearest: float
    error: float
    num_samples: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedNetwork:
    """Network whose weights are on their grids.

    Attributes:
        network: New; everything but the rounded weights is a copy.
        layers: In execution order.
    """

    network: nn.Module
    layers: tuple[LayerReport, ...]


def round_network(
    network: nn.Module,
    calibration: CalibrationBatches,
    grids: Mapping[str, WeightGrid],
    *,
    choices: Choices = "floor_ceil",
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
    memory_bytes: float = 2 * 1024**3,
    cache: StepCache | None = None,
) -> RoundedNetwork:
    """Round each layer's weights to its grid so that the layer's output changes least.

    The same arguments give the same bytes on the same machine with the same number of threads.

    Args:
        network: Traceable by torch.fx, in eval mode, batch norms folded; not modified.
        calibration: Preprocessed images; each is read at most once, when a layer first needs it.
        grids: By module name, for ``nn.Conv2d`` and ``nn.Linear``; other layers stay float.
        choices: ``floor_ceil`` rounds each weight down or up to a neighbouring grid point, as AdaRound does; ``free``
            to any grid point, and is never worse for a layer on the same inputs.
        seed: Seed of the sampled output positions.
        progress: Called with layers done, layers in all, and the current layer.
        memory_bytes: Limit for activations kept between layers; with more memory less is computed again.
        cache: Stores the layers of each capture as a part; cached layers are read, and the result is the same to the
            byte. Its content must cover all other arguments. None stores nothing.

    Raises:
        RecipeError: The network cannot be traced, a grid does not fit its layer, or there are no calibration images.
    """
    layers = {name: _checked_layer(network, name, grid) for name, grid in grids.items()}
    streams = TwinStreams(network, layers)
    images = _Images(streams, calibration, memory_bytes)
    cache = cache or StepCache(None, {})
    reports: dict[str, LayerReport] = {}
    while calls := streams.next_calls():
        progress(len(reports), len(layers), next(iter(calls)))
        part = cache.take(" ".join(calls))
        if part is None:
            errors = {name: ReconstructionError(layers[name]) for name in calls}
            started = time.perf_counter()
            images.measure(calls, errors, seed)
            capture_s = (time.perf_counter() - started) / len(calls)
            part = _round_layers(errors, grids, choices, capture_s, images.num_in_use)
            cache.put(" ".join(calls), part)
        facts: Any = part.facts
        images.num_in_use = facts["num_images"]
        for name, rows in part.tensors.items():
            reports[name] = LayerReport(**facts["layers"][name])
            streams.set_weight(name, rows)
        streams.mark_done(calls)
    progress(len(reports), len(layers), "done")
    return RoundedNetwork(
        network=_with_weights(network, streams), layers=tuple(reports[name] for name in streams.layers)
    )


def choose(error: ReconstructionError, grid: WeightGrid, choices: Choices) -> tuple[Tensor, Tensor]:
    """Find the grid points for a layer's weights; the search runs on the CPU.

    Args:
        error: Of the layer, measured.
        grid: Of the layer.
        choices: See ``round_network``.

    Returns:
        Integers ``(G, R, d)`` float64, each weight divided by its scale: those chosen and those of nearest rounding.
    """
    scale, offset = _per_row(grid, error.weight)
    # Divide in the weight's own precision, as AIMET does: otherwise a weight near a grid point may get another floor.
    weight = (error.weight / scale).double().cpu()
    bottom = offset.double().cpu()
    top = bottom + (2**grid.bw - 1)
    moment = error.moment.cpu()
    exact = LatticeProblem(
        moment=moment,
        linear=(error.linear / scale.double()).cpu(),
        weight=weight,
        low=weight.floor().clamp(bottom, top),
        high=weight.ceil().clamp(bottom, top),
    )
    problem = replace(exact, moment=_shrunk(moment, error.num_samples))
    nearest = exact.nearest()
    chosen = _better(exact, nearest, solve(problem))
    if choices == "free":
        whole = replace(problem, low=bottom.expand_as(weight), high=top.expand_as(weight))
        chosen = _better(exact, chosen, solve(whole, starts=[chosen]))
    return chosen, nearest


def _shrunk(moment: Tensor, num_samples: int) -> Tensor:
    size = moment.shape[-1]
    mean = moment.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return moment + SHRINKAGE * size / num_samples * mean * torch.eye(size, dtype=moment.dtype)


def _better(problem: LatticeProblem, safe: Tensor, candidate: Tensor) -> Tensor:
    """Return ``candidate``, except for rows whose cost on the samples is above that of ``safe``."""
    return torch.where((problem.cost(candidate) <= problem.cost(safe))[..., None], candidate, safe)


def _round_layer(
    name: str, error: ReconstructionError, grid: WeightGrid, choices: Choices, capture_s: float
) -> tuple[Tensor, LayerReport]:
    started = time.perf_counter()
    integers, nearest = choose(error, grid, choices)
    rows, nearest_rows = (_grid_weight(k, grid, error.weight) for k in (integers, nearest))
    return rows, LayerReport(
        name=name,
        num_weights=integers.numel(),
        num_changed=int((integers != nearest).sum()),
        error_nearest=error.relative(nearest_rows),
        error=error.relative(rows),
        num_samples=error.num_samples,
        seconds=capture_s + time.perf_counter() - started,
    )


def _round_layers(
    errors: Mapping[str, ReconstructionError],
    grids: Mapping[str, WeightGrid],
    choices: Choices,
    capture_s: float,
    num_images: int,
) -> Part:
    rows: dict[str, Tensor] = {}
    reports: dict[str, Json] = {}
    for name, error in errors.items():
        weight, report = _round_layer(name, error, grids[name], choices, capture_s)
        rows[name], reports[name] = weight.cpu(), asdict(report)
    return Part(tensors=rows, facts={"layers": reports, "num_images": num_images})


class _Images:
    """Calibration images, each read once, with the state of each batch inside the network.

    Attributes:
        num_in_use: Images that earlier layers used; if those layers were cached, not all of the images are read yet.
    """

    def __init__(self, streams: TwinStreams, calibration: CalibrationBatches, memory_bytes: float) -> None:
        self._streams = streams
        self._unread = _small_batches(calibration)
        self._num_images = calibration.num_images
        self._memory_bytes = memory_bytes
        self._states: list[BatchState] = []
        self.num_in_use = 0

    def measure(self, calls: Mapping[str, list[fx.Node]], errors: Mapping[str, ReconstructionError], seed: int) -> None:
        """Fill ``errors`` from as many images as their layers need."""
        if not self._num_images:
            raise RecipeError("There are no calibration images.", fix="give at least one calibration image.")
        in_use = self.num_in_use
        index, num_used, num_wanted = 0, 0, 1
        while num_used < num_wanted and (state := self._state(index)) is not None:
            share = self._memory_bytes * state.num_images / self._num_images
            for name, exact, rounded in self._streams.advance(state, calls, share):
                available = num_positions(errors[name].layer, exact)
                per_image, num_images = self._plan(available, errors[name].weight.shape[-1], in_use)
                num_wanted = max(num_wanted, num_images)
                if num_used < num_images:  # another layer of `calls` may need more images
                    layer_seed = np.random.SeedSequence((seed, list(errors).index(name), index))
                    errors[name].add(exact, rounded, _sample(available, per_image, layer_seed, exact.device))
            num_used += state.num_images
            index += 1
        self.num_in_use = max(in_use, num_used)

    def _plan(self, available: int, num_weights: int, in_use: int) -> tuple[int, int]:
        """Return positions per image and number of images, for a layer's positions per image and weights per filter.

        Images that earlier layers have used are already carried up to here, so the positions spread over all of them.
        """
        wanted = max(MIN_SAMPLES, SAMPLES_PER_WEIGHT * num_weights)
        needed = -(-wanted // min(available, POSITIONS_PER_IMAGE))
        num_images = min(self._num_images, max(needed, in_use))
        return min(available, -(-wanted // num_images)), num_images

    def _state(self, index: int) -> BatchState | None:
        if index == len(self._states):
            images = next(self._unread, None)
            if images is None:
                return None
            self._states.append(self._streams.new_batch(images))
        return self._states[index]


def _small_batches(calibration: CalibrationBatches) -> Iterator[Tensor]:
    # The first layers' activations are large: a small batch stays in the processor's cache.
    for batch in calibration:
        yield from torch.split(batch, _IMAGES_AT_ONCE)


def _sample(available: int, wanted: int, seed: np.random.SeedSequence, device: torch.device) -> Tensor | None:
    if wanted >= available:
        return None
    chosen = np.random.default_rng(seed).choice(available, wanted, replace=False, shuffle=False)
    return torch.from_numpy(np.sort(chosen)).to(device)


def _checked_layer(network: nn.Module, name: str, grid: WeightGrid) -> RoundableLayer:
    try:
        layer = network.get_submodule(name)
    except AttributeError as error:
        raise RecipeError(
            f"There is a grid for {name!r}, but the network has no such layer.", fix="name layers of the network."
        ) from error
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise RecipeError(
            f"Layer {name!r} is a {type(layer).__name__}; the fast rounding engine supports Conv2d and Linear.",
            fix="leave it out of the grids, or use `engine: aimet`.",
        )
    if grid.scale.shape not in {(1,), (len(layer.weight),)} or grid.offset.shape != grid.scale.shape:
        raise RecipeError(
            f"The grid of {name!r} has scale {tuple(grid.scale.shape)} and offset {tuple(grid.offset.shape)}; "
            f"the layer has {len(layer.weight)} output channels.",
            fix="give both the shape (1,) or (number of output channels,).",
        )
    if not bool((grid.scale > 0).all()) or not bool((grid.offset == grid.offset.round()).all()):
        raise RecipeError(f"The grid of {name!r} has a scale of 0 or less, or a fractional offset.", fix="correct it.")
    return layer


def _per_row(grid: WeightGrid, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and offset in a shape that broadcasts with ``(G, R, d)`` rows."""
    groups, num_rows, _ = rows.shape
    shape = (1, 1, 1) if len(grid.scale) == 1 else (groups, num_rows, 1)
    return grid.scale.detach().to(rows).reshape(shape), grid.offset.detach().to(rows).reshape(shape)


def _grid_weight(integers: Tensor, grid: WeightGrid, like: Tensor) -> Tensor:
    """Return the weights ``(G, R, d)`` of integers of that shape as a quantizer computes them, on ``like``'s device."""
    scale, _ = _per_row(grid, like)
    return integers.to(like) * scale


def _with_weights(network: nn.Module, streams: TwinStreams) -> nn.Module:
    result = copy.deepcopy(network)
    for name in streams.layers:
        result.get_parameter(f"{name}.weight").data.copy_(streams.weight(name))
    return result
