"""What is kept comes back as it was written or not at all; a step that was stopped goes on to the same bytes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zoo_core.datatypes import Json, QuantNetwork, StepContext
from zoo_core.quantization import cache as step_cache
from zoo_core.quantization.cache import Part, StepCache, tensor_sha256
from zoo_core.quantization.params import AdaroundParams
from zoo_core.quantization.rounding import engine as rounding
from zoo_core.quantization.steps.adaround import round_weights
from zoo_core.runs import provenance

NAMES = ("first", "second", "third")


def part(value: float) -> Part:
    return Part(tensors={"weight": torch.full((2, 3), value)}, facts={"value": value, "list": [1, None, "x"]})


def fill(folder: Path, values: tuple[float, ...] = (1.0, 2.0, 3.0)) -> None:
    cache = StepCache(folder, {"a": 1})
    for name, value in zip(NAMES, values, strict=False):
        assert cache.take(name) is None
        cache.put(name, part(value))
    cache.close()


def taken(folder: Path, content: dict[str, Json] | None = None) -> list[float]:
    cache = StepCache(folder, content or {"a": 1})
    parts = list(itertools.takewhile(lambda found: found is not None, (cache.take(name) for name in NAMES)))
    return [float(found.tensors["weight"][0, 0]) for found in parts if found is not None]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def test_parts_come_back_in_order_with_facts_and_bytes(tmp_path: Path) -> None:
    fill(tmp_path)
    cache = StepCache(tmp_path, {"a": 1})
    for name, value in zip(NAMES, (1.0, 2.0, 3.0), strict=True):
        found = cache.take(name)
        assert found is not None
        assert torch.equal(found.tensors["weight"], part(value).tensors["weight"])
        assert found.facts == part(value).facts
    assert (cache.num_cached, cache.num_computed) == (3, 0)
    assert cache.summary().startswith("; from the cache, computed on 20")


def test_other_content_and_other_names_find_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    assert taken(tmp_path, {"a": 2}) == []
    cache = StepCache(tmp_path, {"a": 1})
    assert cache.take("another") is None
    assert cache.take("first") is None, "what follows a part that is missing is not taken either"


def test_work_goes_on_where_it_stopped_and_says_so(tmp_path: Path) -> None:
    fill(tmp_path, (1.0, 2.0))
    cache = StepCache(tmp_path, {"a": 1})
    assert [cache.take(name) is not None for name in NAMES] == [True, True, False]
    cache.put("third", part(3.0))
    cache.close()
    assert "the first 2 of 3 parts from the cache" in cache.summary()
    assert taken(tmp_path) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "metadata", "text", "folder"])
def test_a_damaged_file_is_computed_again_and_replaced(
    tmp_path: Path, damage: str, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    path = files(tmp_path)[at]
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-1] ^= 1
    elif damage == "metadata":
        data = data.replace(b'\\"value\\": ', b'\\"value\\":-')
    cases = {"cut": bytes(data[: len(data) // 2]), "empty": b"", "text": b"not weights"}
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(cases.get(damage, bytes(data)))
    assert taken(tmp_path) == [1.0, 2.0, 3.0][:at]
    assert "is damaged and is computed again" in caplog.text
    if damage == "folder":
        path.rmdir()
    fill_after(tmp_path, at)
    assert taken(tmp_path) == [1.0, 2.0, 3.0]


def fill_after(folder: Path, num_found: int) -> None:
    cache = StepCache(folder, {"a": 1})
    for index, name in enumerate(NAMES):
        if cache.take(name) is None:
            cache.put(name, part(index + 1.0))
    assert (cache.num_cached, cache.num_computed) == (num_found, 3 - num_found)


def test_parts_of_two_processes_that_found_different_things_never_mix(tmp_path: Path) -> None:
    one, other = StepCache(tmp_path, {"a": 1}), StepCache(tmp_path, {"a": 1})
    assert one.take("first") is None
    assert other.take("first") is None
    one.put("first", part(1.0))
    other.put("first", part(10.0))
    other.put("second", part(20.0))
    one.put("second", part(2.0))
    assert taken(tmp_path) == [10.0], "the second file follows another first one"


def test_many_writers_at_once_leave_a_whole_entry(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(fill_or_take, tmp_path) for _ in range(16)]:
            done.result()
    assert taken(tmp_path) == [1.0, 2.0, 3.0]
    assert not list(tmp_path.glob("*/.*"))


def fill_or_take(folder: Path) -> None:
    cache = StepCache(folder, {"a": 1})
    for index, name in enumerate(NAMES):
        found = cache.take(name)
        if found is None:
            cache.put(name, part(index + 1.0))
        else:
            assert float(found.tensors["weight"][0, 0]) == index + 1.0
    cache.close()


def test_a_folder_that_cannot_be_written_stops_no_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = StepCache(tmp_path / "file", {"a": 1})
    for name in NAMES:
        assert cache.take(name) is None
        cache.put(name, part(1.0))
    cache.close()
    assert caplog.text.count("Results are no longer cached") == 1
    assert cache.summary() == ""


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    cache = StepCache(None, {"a": 1})
    cache.put("first", part(1.0))
    cache.close()
    assert (cache.take("first"), cache.record()) == (None, None)
    assert list(tmp_path.iterdir()) == []


def test_entries_not_used_for_longest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(4):
        cache = StepCache(tmp_path, {"a": index})
        cache.put("first", part(index))
        cache.close()
        os.utime(tmp_path / cache.key, (time.time() - 1000 + index,) * 2)
    used = StepCache(tmp_path, {"a": 0})
    assert used.take("first") is not None
    used.close()  # now the last one used
    one = sum(path.stat().st_size for path in (tmp_path / used.key).iterdir())
    monkeypatch.setattr(step_cache, "LIMIT_BYTES", int(2.5 * one))
    used.close()
    assert [bool(taken(tmp_path, {"a": index})) for index in range(4)] == [True, False, False, True]


def test_a_tensors_hash_tells_values_shapes_and_types_apart_and_nothing_else() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert tensor_sha256(x) == tensor_sha256(x.to(memory_format=torch.channels_last)) == tensor_sha256(x.clone())
    others = [x + 1, x.reshape(6, 4), x.double(), x.to(torch.bfloat16), x.int(), torch.tensor(1.0), torch.zeros(0)]
    assert len({tensor_sha256(x), *(tensor_sha256(other) for other in others)}) == 8


# --------------------------------------------------------------------------- adaround


ENGINES = [{"engine": "aimet", "num_iterations": 20}, {"engine": "fast"}]
BY_ENGINE = pytest.mark.parametrize("params", ENGINES, ids=lambda params: str(params["engine"]))


def adaround(network: nn.Module, context: StepContext, params: dict[str, Any]) -> Any:
    return round_weights(QuantNetwork(network=network), AdaroundParams.model_validate(params), context)


def stop_at(done: int) -> Any:
    def progress(now: int, _total: int, _what: str) -> None:
        if now == done:
            raise KeyboardInterrupt

    return progress


def same_bytes(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.fixture
def folded(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for index, child in enumerate(module):
                module[index] = nn.Identity() if isinstance(child, nn.BatchNorm2d) else child
    return network


@pytest.fixture
def cached(context: StepContext, tmp_path: Path) -> StepContext:
    return dataclasses.replace(context, cache_dir=tmp_path / "cache")


@BY_ENGINE
def test_asked_again_the_layers_come_from_the_cache_to_the_same_bytes(
    folded: nn.Module, context: StepContext, cached: StepContext, params: dict[str, Any]
) -> None:
    plain = adaround(folded, context, params)
    first, second = (adaround(folded, cached, params) for _ in range(2))
    assert plain.effect["cache"] is None
    assert first.effect["cache"]["parts_from_cache"] == 0
    assert "from the cache" not in first.summary
    assert second.effect["cache"]["parts_computed"] == 0
    assert second.effect["cache"]["parts_from_cache"] == first.effect["cache"]["parts_computed"] == 5
    assert "; from the cache, computed on 20" in second.summary
    for made in (first, second):
        assert same_bytes(made.result.network, plain.result.network)
        assert made.result.param_encodings == plain.result.param_encodings
        assert made.effect["layers"] == plain.effect["layers"]


@BY_ENGINE
@pytest.mark.parametrize("done", [1, 3, 4])
def test_stopped_at_a_layer_it_goes_on_there_to_the_same_bytes(
    folded: nn.Module, context: StepContext, cached: StepContext, params: dict[str, Any], done: int
) -> None:
    whole = adaround(folded, context, params)
    with pytest.raises(KeyboardInterrupt):
        adaround(folded, dataclasses.replace(cached, progress=stop_at(done)), params)
    resumed = adaround(folded, cached, params)
    assert resumed.effect["cache"]["parts_from_cache"] == done
    assert resumed.effect["cache"]["parts_computed"] == 5 - done
    assert f"the first {done} of 5 parts from the cache" in resumed.summary
    assert same_bytes(resumed.result.network, whole.result.network)
    assert resumed.effect["layers"] == whole.effect["layers"]


def test_a_damaged_layer_and_those_after_it_are_rounded_again(
    folded: nn.Module, context: StepContext, cached: StepContext
) -> None:
    params = {"engine": "fast"}
    adaround(folded, cached, params)
    assert cached.cache_dir is not None
    path = files(cached.cache_dir / "adaround")[2]
    path.write_bytes(path.read_bytes()[:-1])
    again = adaround(folded, cached, params)
    assert again.effect["cache"]["parts_from_cache"] == 2
    assert same_bytes(again.result.network, adaround(folded, context, params).result.network)


class OtherForward(nn.Module):
    """The same modules and weights under the same names, put together otherwise."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.get_submodule("stem")(x)
        y = x
        for name in ("expand", "depthwise", "project"):
            y = self.get_submodule(name)(y)
        y = self.get_submodule("plus")(y, y)
        return self.get_submodule("head")(y), y


def test_the_hash_of_the_sources_covers_modules_in_subfolders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "rounding" / "engine.py"
    module.parent.mkdir()
    monkeypatch.setattr(step_cache, "__file__", str(tmp_path / "cache.py"))
    hashes = []
    for source in ("SHRINKAGE = 0.3", "SHRINKAGE = 0.1"):
        module.write_text(source)
        hashes.append(step_cache.engine_sha256.__wrapped__())
    assert hashes[0] != hashes[1]


def test_whatever_the_result_depends_on_is_in_the_key(
    folded: nn.Module, cached: StepContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "MIN_SAMPLES", 64)
    config = tmp_path / "other.json"
    config.write_text(cached.quant.config_file.read_text().replace('"is_symmetric": "False"', '"is_symmetric": "True"'))
    other_weights = copy.deepcopy(folded)
    other_weights.get_parameter("head.weight").data[0, 0] += 1e-3
    images = copy.deepcopy(cached.calibration)
    images._batches[0][0, 0, 0, 0] += 1e-3  # type: ignore[attr-defined]
    quant = cached.quant
    cases: dict[str, tuple[nn.Module, StepContext, dict[str, Any]]] = {
        "as it was": (folded, cached, {}),
        "weights": (other_weights, cached, {}),
        "forward": (OtherForward(folded).eval(), cached, {}),
        "images": (folded, dataclasses.replace(cached, calibration=images), {}),
        "fewer images": (folded, cached, {"num_batches": 2}),
        "choices": (folded, cached, {"choices": "free"}),
        "seed": (folded, dataclasses.replace(cached, seed=4), {}),
        "bits": (folded, dataclasses.replace(cached, quant=dataclasses.replace(quant, param_bw=4)), {}),
        "scheme": (folded, dataclasses.replace(cached, quant=dataclasses.replace(quant, quant_scheme="tf")), {}),
        "config": (folded, dataclasses.replace(cached, quant=dataclasses.replace(quant, config_file=config)), {}),
        "input": (folded, dataclasses.replace(cached, quant=dataclasses.replace(quant, input="quantized")), {}),
    }
    keys = {}
    for name, (network, context, params) in cases.items():
        effect = adaround(network, context, {"engine": "fast", **params}).effect["cache"]
        assert effect["parts_from_cache"] == 0, f"{name}: was taken for another"
        keys[name] = effect["key"]
    assert len(set(keys.values())) == len(cases)
    monkeypatch.setattr("zoo_core.quantization.steps.adaround.engine_sha256", lambda: "another release")
    assert adaround(folded, cached, {"engine": "fast"}).effect["cache"]["parts_from_cache"] == 0


def other_threads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "get_num_threads", lambda: 77)


def other_processor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(provenance, "_processor", lambda: "Z80")


def other_instruction_set(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(provenance, "_cpu_capability", lambda: "SPARC")


def other_variable(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")


def other_setting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")


@BY_ENGINE
@pytest.mark.parametrize(
    "change", [other_threads, other_processor, other_instruction_set, other_variable, other_setting]
)
def test_what_was_computed_with_other_kernels_or_threads_is_computed_again(
    folded: nn.Module,
    cached: StepContext,
    params: dict[str, Any],
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = adaround(folded, cached, params)
    change(monkeypatch)
    second = adaround(folded, cached, params)

    assert second.effect["cache"]["parts_from_cache"] == 0
    assert first.effect["cache"]["key"] != second.effect["cache"]["key"]
    assert first.effect["arithmetic"] != second.effect["arithmetic"], "the record says what the digits depend on"


def test_a_network_that_cannot_be_recorded_is_rounded_all_the_same(
    folded: nn.Module, cached: StepContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> str:
        raise RuntimeError("no modes, please")

    monkeypatch.setattr("zoo_core.quantization.steps.adaround.program_sha256", refuse)
    assert adaround(folded, cached, {"engine": "fast"}).effect["cache"] is None
    assert "cannot be recorded: no modes, please" in caplog.text
    assert cached.cache_dir is not None
    assert not cached.cache_dir.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from zoo_core.quantization.rounding.engine import WeightGrid, round_network
from zoo_core.quantization.cache import StepCache

torch.manual_seed(0)
network = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))).eval().requires_grad_(False)
images = torch.randn(8, 3, 9, 9)


class Batches(list):
    num_images = 8


def progress(done, total, what):
    if len(sys.argv) > 3 and done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)


cache = StepCache(Path(sys.argv[1]), {})
grids = {str(i): WeightGrid(scale=torch.tensor([0.05]), offset=torch.tensor([-8.0]), bw=4) for i in range(5)}
made = round_network(network, Batches([images]), grids, progress=progress, cache=cache)
torch.save(made.network.state_dict(), sys.argv[2])
print(cache.num_cached, cache.num_computed)
"""


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(tmp_path: Path) -> None:
    def run(folder: str, *kill: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path / folder), str(tmp_path / f"{folder}.pt"), *kill]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603  # our own interpreter and program

    assert run("stopped", "3").returncode == -9
    assert run("stopped").stdout == "3 2\n"
    assert run("whole").stdout == "0 5\n"
    one, other = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("stopped", "whole"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
