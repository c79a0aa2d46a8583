"""Faster activation histograms for AIMET's range search.

AIMET 2.42 reads an activation about a dozen times per batch, bins it twice, and searches a range for that one batch,
which calibration does not use. Here a batch is read twice, for its extremes and for its bins; AIMET's own code still
places the bins and stretches a histogram when a batch exceeds it. Counts are whole numbers, so histograms and encodings
are the same to the last bit; ``same_as_own`` compares both ways on generated batches before any quantizer is touched.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

logger = logging.getLogger("zoo_eval.aimet")

_EXACT_COUNTS = 1 << 24
"""Beyond this float32 cannot count exactly, and the order of the values would matter."""


@contextlib.contextmanager
def fast_histograms(analyzers: Iterable[Any], is_histogram: Callable[[Any], bool]) -> Iterator[None]:
    """Let per-tensor analyzers use the fast method while the context is open.

    Args:
        analyzers: AIMET's encoding analyzers of activation quantizers, which pass their input on while they observe.
            Their range search is switched off until the context closes.
        is_histogram: Tests if an analyzer's observer keeps histograms; other analyzers are not changed.
    """
    chosen = [
        analyzer for analyzer in analyzers if is_histogram(analyzer.observer) and len(analyzer.observer.stats) == 1
    ]
    if chosen and not same_as_own(chosen[0]):
        logger.warning("The installed AIMET observes activations differently from 2.42; its own, slower way is used.")
        chosen = []
    for analyzer in chosen:
        analyzer.update_stats = _Fast(analyzer)
        analyzer.compute_encodings_from_stats = _no_search
    try:
        yield
    finally:
        for analyzer in chosen:
            del analyzer.update_stats, analyzer.compute_encodings_from_stats


def same_as_own(analyzer: Any) -> bool:
    """Check that both ways give equal histograms for generated batches within and beyond the first one's range."""
    own, fast = copy.deepcopy(analyzer), copy.deepcopy(analyzer)
    try:
        own.reset_stats()
        fast.reset_stats()
        update = _Fast(fast)
        for batch in _generated_batches():
            own.update_stats(batch)
            update(batch)
        pairs = zip(_parts(own), _parts(fast), strict=True)
        return all(one.equal(other) for one, other in pairs)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:  # another version's interface
        logger.info("observing: %s: %s", type(error).__name__, error)
        return False


def _generated_batches() -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    for scale, shift in ((1.0, 0.0), (0.5, 0.1), (1.7, 0.6), (40.0, -3.0)):
        batch = torch.randn(2, 3, 8, 8, generator=generator) * scale + shift
        yield batch.to(memory_format=torch.channels_last)


def _parts(analyzer: Any) -> tuple[torch.Tensor, ...]:
    (stats,) = analyzer.observer.stats
    return stats.histogram, stats.bin_edges, stats.min, stats.max


def _no_search(*_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return any range: a quantizer that passes its input on does not use it."""
    return torch.zeros(()), torch.ones(())


class _Fast:
    """Replaces an analyzer's ``update_stats``."""

    def __init__(self, analyzer: Any) -> None:
        self._observer = analyzer.observer

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> Any:
        observer, flat = self._observer, _flat(x)
        lowest, highest = torch.aminmax(flat)
        if x.dtype != torch.float32 or not (lowest.isfinite() and highest.isfinite()):
            new = observer.collect_stats(x)
            observer.merge_stats(new, x)
            return new
        if observer.stats[0].histogram is None:
            new = observer.collect_stats(torch.stack([lowest, highest]))  # bins depend only on the extremes
            limits = new[0].bin_edges[0], new[0].bin_edges[-1]
            new[0].histogram = _histogram(flat, observer.num_bins, limits, (lowest, highest))
            observer.merge_stats(new, x)
            return new
        new = [type(observer.stats[0])(min=lowest, max=highest)]
        observer.merge_stats(new, x.new_empty(0))  # stretches the histogram where the batch exceeds it
        stats = observer.stats[0]
        stats.histogram += _histogram(flat, observer.num_bins, (stats.min, stats.max), (lowest, highest))
        return new


def _histogram(
    flat: torch.Tensor,
    num_bins: int,
    limits: tuple[torch.Tensor, torch.Tensor],
    extremes: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Count the values in equal bins between two limits; values beyond them go into the outermost bins."""
    histogram = torch.histc(flat.float(), bins=num_bins, min=float(limits[0]), max=float(limits[1]))
    if extremes[0] < limits[0]:
        histogram[0] += torch.sum(flat < limits[0])
    if extremes[1] > limits[1]:
        histogram[-1] += torch.sum(flat > limits[1])
    return histogram


def _flat(x: torch.Tensor) -> torch.Tensor:
    """Return all values as one axis, in memory order (without a copy) where their order does not matter."""
    if x.dim() == 4 and x.numel() < _EXACT_COUNTS and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).reshape(-1)
    return x.reshape(-1)
