"""Calibration in the fast way gives AIMET's own encodings, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from zoo_core.datatypes import QuantSettings, StepContext
from zoo_core.quantization.aimet import observing, quantsim
from zoo_core.recipes import shipped_configs

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = shipped_configs()["per_tensor_asymmetric"]


class Batches:
    """Batches of different ranges: within the first's, beyond it, and so far beyond that a histogram's limits hold."""

    num_images = 20

    def __iter__(self) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        for scale, shift in ((1.0, 0.0), (0.3, 0.2), (2.0, -0.5), (60.0, 20.0), (1.0, 0.0)):
            batch = torch.randn(4, 3, 16, 16, generator=generator) * scale + shift
            yield batch.to(memory_format=torch.channels_last)

    def __len__(self) -> int:
        return 5


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(inplace=True), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 144, 5), nn.Softmax(dim=1)).eval()


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return StepContext(
        example_input=torch.zeros(1, 3, 16, 16),
        calibration=Batches(),
        quant=QuantSettings(param_bw=8, output_bw=8, quant_scheme="tf_enhanced", config_file=CONFIG),
        seed=0,
        work_dir=tmp_path,
        progress=lambda _done, _total, _what: None,
    )


def calibrated(network: nn.Module, context: StepContext) -> Any:
    sim = quantsim.build(network, context.example_input, context.quant)
    quantsim.calibrate(sim, context)
    return quantsim.encodings_of(sim)


def test_encodings_are_aimets_own_to_the_last_bit(
    network: nn.Module, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = calibrated(network, context)
    monkeypatch.setattr(observing, "same_as_own", lambda _analyzer: False)
    own = calibrated(network, context)

    activations, _ = own
    assert len(activations) >= 5
    assert fast == own


def test_an_interface_that_has_changed_is_left_to_aimet(
    network: nn.Module, context: StepContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = calibrated(network, context)
    monkeypatch.setattr(observing, "_flat", lambda x: x.reshape(-1)[1:])  # loses a value: no longer the same

    with caplog.at_level("WARNING", logger="zoo_eval.aimet"):
        assert calibrated(network, context) == expected
    assert "its own, slower way is used" in caplog.text


def test_values_that_are_not_finite_are_left_to_aimet() -> None:
    class Stats:
        histogram = torch.ones(4)

    class Observer:
        stats = (Stats(),)
        seen: tuple[str, ...] = ()

        def collect_stats(self, _x: torch.Tensor) -> list[Stats]:
            self.seen += ("collected",)
            return [Stats()]

        def merge_stats(self, _new: list[Stats], x: torch.Tensor) -> None:
            self.seen += (f"merged {x.numel()}",)

    class Analyzer:
        observer = Observer()

    for bad in (float("inf"), float("nan")):
        observing._Fast(Analyzer())(torch.tensor([1.0, bad]))
    assert Analyzer.observer.seen == ("collected", "merged 2") * 2
