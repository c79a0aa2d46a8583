"""The fast rounding engine on small networks: what it promises about weights, errors, inputs and repetition."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional

from zoo_core.errors import RecipeError
from zoo_core.quantization.rounding.engine import RoundedNetwork, WeightGrid, choose, round_network
from zoo_core.quantization.rounding.moments import ReconstructionError


class Calibration:
    """Batches held in memory, counted as they are read."""

    def __init__(self, images: torch.Tensor, batch_size: int = 8) -> None:
        self.batches = torch.split(images, batch_size)
        self.num_images = len(images)
        self.num_read = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in self.batches:
            self.num_read += len(batch)
            yield batch

    def __len__(self) -> int:
        return len(self.batches)


class Block(nn.Module):
    """Expansion, depthwise, projection and an addition, as MobileNetV2's blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 3 * channels, 1)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels)
        self.project = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        total: torch.Tensor = x + y
        return total


class SmallNetwork(nn.Module):
    """Every kind of layer, two outputs, a tensor read far from where it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.block = Block(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.head = nn.Linear(12, 10)
        self.side = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = functional.relu(self.stem(x))
        y = functional.relu(self.grouped(self.block(x)))
        return self.head(y.mean((2, 3))), self.side(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)


LAYERS = ("stem", "block.expand", "block.depthwise", "block.project", "grouped", "head", "side")


@pytest.fixture
def network() -> SmallNetwork:
    torch.manual_seed(0)
    return SmallNetwork().eval().requires_grad_(False)


@pytest.fixture
def calibration() -> Calibration:
    # Smooth pictures: neighbouring pixels agree, as in photographs, so inputs are correlated.
    coarse = torch.randn(24, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return Calibration(functional.interpolate(coarse, size=(17, 17), mode="bilinear"))


def min_max_grids(network: nn.Module, bw: int, *, per_channel: bool) -> dict[str, WeightGrid]:
    grids = {}
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            rows = layer.weight.flatten(1) if per_channel else layer.weight.reshape(1, -1)
            low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
            scale = (high - low) / (2**bw - 1)
            grids[name] = WeightGrid(scale=scale, offset=(low / scale).round(), bw=bw)
    return grids


def weight_of(network: nn.Module, name: str) -> torch.Tensor:
    return network.get_parameter(f"{name}.weight").detach()


def integers(network: nn.Module, name: str, grid: WeightGrid) -> torch.Tensor:
    """A layer's weights over their scale, ``(C_out, d)``; whole numbers when they lie on the grid."""
    return weight_of(network, name).flatten(1).div(grid.scale[:, None])


def error_of_outputs(network: nn.Module, rounded: nn.Module, calibration: Calibration) -> float:
    total = 0.0
    for batch in calibration.batches:
        total += sum(float((a - b).square().sum()) for a, b in zip(network(batch), rounded(batch), strict=True))
    return total


def run(network: nn.Module, calibration: Calibration, bw: int = 4, **settings: object) -> RoundedNetwork:
    return round_network(network, calibration, min_max_grids(network, bw, per_channel=False), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("choices", ["floor_ceil", "free"])
@pytest.mark.parametrize("bw", [4, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_lie_on_the_grid(
    network: SmallNetwork,
    calibration: Calibration,
    choices: Literal["floor_ceil", "free"],
    bw: int,
    per_channel: bool,
) -> None:
    grids = min_max_grids(network, bw, per_channel=per_channel)
    result = round_network(network, calibration, grids, choices=choices)
    assert tuple(report.name for report in result.layers) == LAYERS
    for name, grid in grids.items():
        k = integers(result.network, name, grid)
        q = k.round() - grid.offset[:, None]
        assert torch.equal(k.round() * grid.scale[:, None], weight_of(result.network, name).flatten(1))
        assert float(q.min()) >= 0
        assert float(q.max()) <= 2**bw - 1
        if choices == "floor_ceil":
            exact = integers(network, name, grid)
            low = torch.maximum(exact.floor(), grid.offset[:, None])
            high = torch.minimum(exact.ceil(), grid.offset[:, None] + 2**bw - 1)
            assert bool(((k.round() >= low) & (k.round() <= torch.maximum(high, low))).all())


def test_a_layer_reports_the_error_that_its_output_has(network: SmallNetwork, calibration: Calibration) -> None:
    result = run(network, calibration)
    wanted: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    for source, outputs in ((network, wanted), (result.network, given)):
        hook = source.get_submodule("grouped").register_forward_hook(lambda _m, _i, y, kept=outputs: kept.append(y))
        for batch in calibration.batches:
            source(batch)
        hook.remove()
    exact, rounded = torch.cat(wanted).double(), torch.cat(given).double()
    report = next(report for report in result.layers if report.name == "grouped")
    # The bias is in `exact` alone as in `rounded`, so it cancels in the error but not in the reference.
    bias = network.get_parameter("grouped.bias").double()[:, None, None]
    expected = (exact - rounded).square().sum() / (exact - bias).square().sum()
    assert report.error == pytest.approx(float(expected), rel=1e-4)
    assert report.num_samples == 24 * 9 * 9


@pytest.mark.parametrize("bw", [4, 8])
def test_every_layer_is_at_least_as_good_as_nearest_and_the_network_is_better(
    network: SmallNetwork, calibration: Calibration, bw: int
) -> None:
    grids = min_max_grids(network, bw, per_channel=False)
    nearest = copy.deepcopy(network)
    for name, grid in grids.items():
        weight = weight_of(nearest, name)
        weight.copy_((weight / grid.scale).round() * grid.scale)
    result = round_network(network, calibration, grids)
    for report in result.layers:
        assert report.error <= report.error_nearest
        assert 0 <= report.num_changed <= report.num_weights
        assert report.num_weights == weight_of(network, report.name).numel()
    ours = error_of_outputs(network, result.network, calibration)
    assert ours < 0.7 * error_of_outputs(network, nearest, calibration)


def test_free_choice_is_no_worse_than_floor_and_ceil_on_a_layer(calibration: Calibration) -> None:
    torch.manual_seed(2)
    for layer in (nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1), nn.Conv2d(3, 3, 3, groups=3)):
        single = nn.Sequential(layer.requires_grad_(False))
        tight = run(single, calibration, choices="floor_ceil").layers[0]
        open_ = run(single, calibration, choices="free").layers[0]
        assert open_.error <= tight.error * (1 + 1e-9)
        assert open_.error_nearest == pytest.approx(tight.error_nearest)


@pytest.mark.parametrize("choices", ["floor_ceil", "free"])
def test_with_few_samples_the_choice_serves_images_not_seen(
    choices: Literal["floor_ceil", "free"], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(48, 200, bias=False).requires_grad_(False)
    layer.weight.normal_(generator=generator)
    mixing = torch.randn(48, 48, generator=generator)
    few, others = (torch.randn(n, 48, generator=generator) @ mixing for n in (60, 4000))
    grid = min_max_grids(nn.Sequential(layer), 4, per_channel=False)["0"]
    seen, unseen = ReconstructionError(layer), ReconstructionError(layer)
    seen.add(few, few)
    unseen.add(others, others)

    def error_on_others() -> float:
        integers, _ = choose(seen, grid, choices)
        return unseen.relative(integers.to(layer.weight) * grid.scale)

    shrunk = error_on_others()
    monkeypatch.setattr("zoo_core.quantization.rounding.engine.SHRINKAGE", 0.0)
    assert shrunk < error_on_others()


def test_the_network_given_is_not_modified(network: SmallNetwork, calibration: Calibration) -> None:
    before = copy.deepcopy(network.state_dict())
    strides = {name: tensor.stride() for name, tensor in network.state_dict().items()}
    result = run(network, calibration)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.stride() == strides[name]
    assert result.network is not network
    assert torch.equal(result.network.get_parameter("stem.bias"), network.get_parameter("stem.bias"))


@pytest.mark.parametrize("choices", ["floor_ceil", "free"])
def test_the_same_seed_gives_the_same_bytes(
    network: SmallNetwork, calibration: Calibration, choices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few samples a layer, so that sampling takes part.
    monkeypatch.setattr("zoo_core.quantization.rounding.engine.MIN_SAMPLES", 512)
    monkeypatch.setattr("zoo_core.quantization.rounding.engine.SAMPLES_PER_WEIGHT", 1)
    results = [run(network, calibration, seed=3, choices=choices).network.state_dict() for _ in range(3)]
    torch.rand(7)  # the global random state takes no part
    results.append(run(network, calibration, seed=3, choices=choices).network.state_dict())
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert tensor.numpy().tobytes() == other[name].numpy().tobytes()


def test_global_random_state_is_left_alone(network: SmallNetwork, calibration: Calibration) -> None:
    before = torch.get_rng_state()
    run(network, calibration)
    assert torch.equal(before, torch.get_rng_state())


def test_with_no_memory_for_activations_the_result_is_the_same(network: SmallNetwork, calibration: Calibration) -> None:
    kept = run(network, calibration, memory_bytes=1e9).network.state_dict()
    again = run(network, calibration, memory_bytes=0).network.state_dict()
    for name, tensor in kept.items():
        assert torch.equal(tensor, again[name])


def test_each_image_is_read_once_and_no_more_than_needed(
    network: SmallNetwork, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(network, calibration)
    assert calibration.num_read == 24
    convolutions = nn.Sequential(network.stem, network.side)
    monkeypatch.setattr("zoo_core.quantization.rounding.engine.MIN_SAMPLES", 512)
    monkeypatch.setattr("zoo_core.quantization.rounding.engine.SAMPLES_PER_WEIGHT", 1)
    calibration.num_read = 0
    reports = run(convolutions, calibration).layers
    assert calibration.num_read == 8  # at most 64 positions an image: 8 images hold 512
    assert all(512 <= report.num_samples < 24 * 81 for report in reports)


def test_batch_size_does_not_change_the_result(network: SmallNetwork, calibration: Calibration) -> None:
    images = torch.cat(calibration.batches)
    results = [run(network, Calibration(images, size)).network.state_dict() for size in (4, 8, 24)]
    for other in results[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in results[0].items())


def test_progress_counts_layers_to_the_end(network: SmallNetwork, calibration: Calibration) -> None:
    seen: list[tuple[int, int, str]] = []
    run(network, calibration, progress=lambda *step: seen.append(step))
    assert seen[0] == (0, 7, "stem")
    assert seen[-1] == (7, 7, "done")
    assert [step[0] for step in seen] == sorted(step[0] for step in seen)


def test_layers_without_a_grid_stay_float(network: SmallNetwork, calibration: Calibration) -> None:
    grids = min_max_grids(network, 4, per_channel=False)
    result = round_network(network, calibration, {name: grids[name] for name in ("block.depthwise", "head")})
    assert [report.name for report in result.layers] == ["block.depthwise", "head"]
    for name in LAYERS:
        same = torch.equal(weight_of(result.network, name), weight_of(network, name))
        assert same == (name not in ("block.depthwise", "head"))


class Shared(nn.Module):
    """One head on two maps, the second made by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 3, 3, stride=2)
        self.head = nn.Conv2d(3, 5, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(x), self.head(self.down(x))


def test_a_layer_called_twice_is_rounded_for_both_calls(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_core.quantization.rounding.engine.MIN_SAMPLES", 100_000)  # all there are
    torch.manual_seed(0)
    reports = run(Shared().eval().requires_grad_(False), calibration).layers
    head = next(report for report in reports if report.name == "head")
    assert head.num_samples == 24 * (17 * 17 + 8 * 8)


class Recurrent(nn.Module):
    """Two layers called in turn, each needing the other's output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(self.a(self.b(self.a(x))))
        return y


def test_layers_called_in_turn_are_rounded_on_what_is_known(calibration: Calibration) -> None:
    torch.manual_seed(0)
    reports = run(Recurrent().eval().requires_grad_(False), calibration).layers
    assert sorted(report.name for report in reports) == ["a", "b"]
    assert all(report.error <= report.error_nearest for report in reports)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.other = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x) if x.sum() > 0 else self.other(x)
        return y


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.layer(x) + y
        return z


@pytest.mark.parametrize(
    ("kind", "words"), [(Branching, "cannot be traced by torch.fx"), (TwoInputs, "takes 2 inputs")]
)
def test_a_network_that_cannot_be_carried_is_refused(
    kind: type[nn.Module], words: str, calibration: Calibration
) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        run(kind().requires_grad_(False), calibration)
    assert "engine: aimet" in caught.value.fix


def test_a_grid_that_fits_no_layer_is_refused(network: SmallNetwork, calibration: Calibration) -> None:
    one = torch.ones(1)
    good = WeightGrid(scale=one, offset=-one, bw=4)
    cases = [
        ({"stemm": good}, "'stemm', but the network has no such layer"),
        ({"block": good}, "'block' is a Block"),
        (
            {"stem": WeightGrid(scale=torch.ones(3), offset=torch.ones(3), bw=4)},
            r"scale \(3,\) and offset \(3,\); .* 8",
        ),
        ({"stem": WeightGrid(scale=one, offset=torch.ones(8), bw=4)}, r"offset \(8,\)"),
        ({"stem": WeightGrid(scale=-one, offset=one, bw=4)}, "scale of 0 or less"),
        ({"stem": WeightGrid(scale=one, offset=one / 3, bw=4)}, "fractional offset"),
    ]
    for grids, words in cases:
        with pytest.raises(RecipeError, match=words):
            round_network(network, calibration, grids)


def test_without_calibration_images_nothing_is_rounded(network: SmallNetwork) -> None:
    with pytest.raises(RecipeError, match="no calibration image"):
        run(network, Calibration(torch.zeros(0, 3, 17, 17)))


def test_a_layer_that_never_runs_is_named(network: SmallNetwork, calibration: Calibration) -> None:
    network.unused = nn.Conv2d(3, 3, 1)
    with pytest.raises(RecipeError, match="never calls 'unused'"):
        run(network, calibration)
