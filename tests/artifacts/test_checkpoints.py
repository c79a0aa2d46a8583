"""Weights files: what is read, what is refused, and that refused ones never run."""

from __future__ import annotations

import functools
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from zoo_core.artifacts import (
    cast_state_dict,
    load_metadata,
    load_state_dict,
    local_checkpoint,
    save_state_dict,
    sha256_of,
)
from zoo_core.errors import ArtifactError, CheckpointError

WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bn.num_batches_tracked": torch.tensor(7)}


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def file_with(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes these bytes to a checkpoint file."""

    def write(data: bytes) -> Path:
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return path

    return write


def check_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


# --------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    "data",
    [
        saved(WEIGHTS), saved(OrderedDict(WEIGHTS)), saved(WEIGHTS, _use_new_zipfile_serialization=False),
        saved({"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"lr": 0.1}}), saved({"model": WEIGHTS, "args": None}),
        saved({"model": {"state_dict": WEIGHTS}}), safetensors_bytes(WEIGHTS),
    ],
    ids=["zip", "ordered", "legacy", "state_dict", "model", "both", "safetensors"],
)  # fmt: skip
def test_every_form_of_weights_gives_the_same_tensors(file_with: Callable[[bytes], Path], data: bytes) -> None:
    check_equal(load_state_dict(file_with(data)), WEIGHTS)


def test_parameters_come_detached_and_half_precision_stays(file_with: Callable[[bytes], Path]) -> None:
    network = torch.nn.Linear(2, 2).half()
    found = load_state_dict(file_with(saved(dict(network.named_parameters()))))
    assert found["weight"].dtype == torch.float16
    assert not found["weight"].requires_grad
    assert type(found["weight"]) in (torch.Tensor, torch.nn.Parameter)


class Renamed(torch.nn.Linear):
    """Calls its weight ``scale`` in files of version 1, as a module does that grew."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, local: Any, *args: Any) -> None:
        if local.get("version", 1) < 2:
            state[f"{prefix}weight"] = state.pop(f"{prefix}scale")
        super()._load_from_state_dict(state, prefix, local, *args)


@pytest.mark.parametrize("wrapped", [False, True])
def test_versions_of_modules_are_kept(file_with: Callable[[bytes], Path], wrapped: bool) -> None:
    network = torch.nn.Sequential(Renamed(2, 2))
    state = network.state_dict()
    path = file_with(saved({"model": state} if wrapped else state))

    found = load_state_dict(path)

    torch.nn.Sequential(Renamed(2, 2)).load_state_dict(found)
    torch.nn.Sequential(Renamed(2, 2)).load_state_dict(cast_state_dict(found, network.state_dict(), path))
    with pytest.raises(KeyError, match=r"0\.scale"):
        torch.nn.Sequential(Renamed(2, 2)).load_state_dict(dict(found))


def test_a_network_of_torchvision_loads_its_own_weights(file_with: Callable[[bytes], Path]) -> None:
    network = torchvision.models.mnasnet0_5(weights=None)

    torchvision.models.mnasnet0_5(weights=None).load_state_dict(load_state_dict(file_with(saved(network.state_dict()))))


@pytest.mark.parametrize("metadata", [7, {"": 3}, {3: {}}, {"": {"version": "2"}}, {"0": {"version": None}}])
def test_versions_that_make_no_sense_are_left_out(file_with: Callable[[bytes], Path], metadata: object) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    state = network.state_dict()
    setattr(state, "_metadata", metadata)  # noqa: B010  # no type declares it

    network.load_state_dict(load_state_dict(file_with(saved(state))))


def test_a_cast_changes_precision_but_never_the_kind_of_number() -> None:
    own = {"weight": torch.ones(2), "count": torch.tensor(1)}

    found = cast_state_dict({"weight": torch.ones(2).half(), "count": torch.tensor(3, dtype=torch.int32)}, own, "w")

    assert (found["weight"].dtype, found["count"].dtype) == (torch.float32, torch.int64)
    for value in (torch.ones(2, dtype=torch.int8), torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(CheckpointError, match=rf"w holds .*: weight is {value.dtype}, not torch.float32\."):
            cast_state_dict({"weight": value}, own, "w")


def test_a_tensor_called_model_is_no_wrapper(file_with: Callable[[bytes], Path]) -> None:
    check_equal(load_state_dict(file_with(saved({"model": torch.ones(2)}))), {"model": torch.ones(2)})


def test_the_name_of_a_file_decides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(saved(WEIGHTS))
    check_equal(load_state_dict(path), WEIGHTS)
    assert load_metadata(path) == {}


def test_a_local_checkpoint_carries_its_hash(file_with: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = file_with(b"abc")
    checkpoint = local_checkpoint(path, optimized=True)
    assert checkpoint.path == path
    assert checkpoint.optimized
    # FIPS 180-2, appendix B.1
    assert checkpoint.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert not local_checkpoint(path).optimized
    with pytest.raises(ArtifactError, match=r"absent cannot be read"):
        sha256_of(tmp_path / "absent")


@pytest.mark.parametrize("function", [load_state_dict, load_metadata, local_checkpoint])
def test_a_missing_file_and_a_directory_are_both_refused(function: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        function(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a directory, not a weights file"):
        function(tmp_path)


@pytest.mark.parametrize("function", [load_state_dict, load_metadata, local_checkpoint])
def test_what_is_no_regular_file_of_sane_size_is_not_read(function: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("link")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 << 30)
    for path, problem in (
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / "pipe", "is not a regular file"),
        (tmp_path / "link", "cannot be read: Too many levels of symbolic links"),
        (tmp_path / "sparse", "has 107374182400 bytes; weights have 1 to 17179869184"),
        (Path("/proc/self/status"), "has 0 bytes"),
    ):
        with pytest.raises(CheckpointError, match=f"{path} {problem}"):
            function(path)


# --------------------------------------------------------------------------- what is refused, and does not run


@pytest.mark.parametrize(
    "wrap",
    [
        saved,
        lambda value: saved(value, _use_new_zipfile_serialization=False),
        *(functools.partial(pickle.dumps, protocol=protocol) for protocol in range(6)),
    ],
    ids=["zip", "legacy", *(f"pickle protocol {protocol}" for protocol in range(6))],
)
def test_a_pickle_that_would_execute_code_is_refused_and_nothing_runs(
    file_with: Callable[[bytes], Path], tmp_path: Path, wrap: Callable[[object], bytes]
) -> None:
    trace = tmp_path / "executed"
    data = wrap({"conv.weight": 1, "x": Payload(f"touch '{trace}'")})
    path = file_with(data)
    with pytest.raises(CheckpointError, match=r"(?s)weights\.pth is .*fix: ") as caught:
        load_state_dict(path)
    assert not trace.exists()
    assert load_metadata(path) == {}
    assert not trace.exists()
    if data.startswith((b"PK", b"\x80")):
        assert "could execute code" in caught.value.fact
        assert "safetensors.torch.save_file" in caught.value.fix
    # The same bytes are harmful to whoever trusts them: the test would notice a payload that does not work.
    if not data.startswith(b"PK"):
        subprocess.run(  # noqa: S603  # own program
            [sys.executable, "-c", "import pickle, sys; f = open(sys.argv[1], 'rb')\nwhile True: pickle.load(f)", path],
            stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert trace.exists()


def test_the_function_that_would_be_called_is_named(file_with: Callable[[bytes], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"could execute code when loaded \(it calls (posix|nt)\.system\)"):
        load_state_dict(file_with(saved({"x": Payload("true")})))


def test_a_whole_module_is_refused_with_the_way_to_convert_it(file_with: Callable[[bytes], Path]) -> None:
    with pytest.raises(
        CheckpointError, match=r"(?s)it calls torch\.nn\.modules\.linear\.Linear.*model\.state_dict\(\)"
    ):
        load_state_dict(file_with(saved(torch.nn.Linear(1, 1))))


def test_a_torchscript_program_is_refused(file_with: Callable[[bytes], Path]) -> None:
    buffer = io.BytesIO(saved(WEIGHTS))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        load_state_dict(file_with(buffer.getvalue()))


_DAMAGED = {
    "empty": b"",
    "a letter": b"x",
    "text": b"no checkpoint at all",
    "half a pickle's head": b"\x80",
    "a pickle of nothing": b"\x80\x02.",
    "a pickle without its end": b"\x80\x02}q\x00",
    "a zip file's head": b"PK\x03\x04",
    "zeros": b"\0" * 4096,
    "torch, end missing": saved(WEIGHTS)[:-30],
    "torch, head alone": saved(WEIGHTS)[:40],
    "old torch, end missing": saved(WEIGHTS, _use_new_zipfile_serialization=False)[:-4],
    "safetensors, end missing": safetensors_bytes(WEIGHTS)[:-4],
    "safetensors, head alone": safetensors_bytes(WEIGHTS)[:50],
    "safetensors, one byte more": safetensors_bytes(WEIGHTS) + b"x",
    "safetensors, endless head": (1 << 40).to_bytes(8, "little") + b"{}",
}


# Names, not bytes, tell the cases apart: an old torch file holds addresses, which differ from process to process.
@pytest.mark.parametrize("data", _DAMAGED.values(), ids=_DAMAGED)
def test_a_truncated_empty_or_foreign_file_is_refused(file_with: Callable[[bytes], Path], data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"weights\.pth (is not a checkpoint|is a pickle that|has 0 bytes)"):
        load_state_dict(file_with(data))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.ones(1)], "holds a list, not a state dict"),
        (torch.ones(1), "holds a Tensor, not a state dict"),
        ({}, "holds an empty state dict"),
        ({"state_dict": {}}, "holds an empty state dict"),
        ({"a": torch.ones(1), "epoch": 3}, "'epoch' is a int, not a tensor"),
        ({"a": {"b": torch.ones(1)}}, "'a' is a dict, not a tensor"),
        ({1: torch.ones(1)}, "the key 1 is not text"),
        ({str(number): number for number in range(9)}, "and 6 more"),
        ({"a": torch.ones(1).expand(1 << 40)}, r"'a' has the shape \(1099511627776,\) but too few bytes for it"),
        ({"a": torch.ones(1, 1).to_sparse()}, "'a' is not a plain tensor .*sparse_coo"),
        ({"a": torch.empty(1, device="meta")}, "'a' is not a plain tensor .meta"),
    ],
)
def test_anything_but_plain_tensors_is_named(file_with: Callable[[bytes], Path], value: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_state_dict(file_with(saved(value)))


def test_a_zip_that_unpacks_to_far_more_than_its_size_is_refused(file_with: Callable[[bytes], Path]) -> None:
    source = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(1 << 20)})))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match=r"declares 41\d{5} unpacked; it was refused"):
        load_state_dict(file_with(buffer.getvalue()))


SEEDS = st.sampled_from([
    saved(WEIGHTS), saved(WEIGHTS, _use_new_zipfile_serialization=False), safetensors_bytes(WEIGHTS, {"a": "b"}),
    pickle.dumps({"a": [1, "b", None]}, 2),
])  # fmt: skip


@given(
    SEEDS, st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=5), st.integers(0, 99)
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_raises_anything_but_a_checkpoint_error(
    file_with: Callable[[bytes], Path], data: bytes, edits: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(data)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    path = file_with(bytes(damaged[: len(damaged) - cut // 2]))
    try:
        load_state_dict(path)
        load_metadata(path)
    except CheckpointError as error:
        assert "weights.pth" in error.fact  # noqa: PT017  # what is tested is that nothing else is raised


# --------------------------------------------------------------------------- what is written


def test_what_was_saved_is_read_back_with_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    shared = torch.arange(4.0)
    tensors = {"a": shared, "b": shared.reshape(2, 2).T, "c": torch.nn.Parameter(torch.ones(1)), "d": torch.tensor(1)}
    save_state_dict(path, tensors, {"relu6_policy": "keep", "größe": "µ"})
    found = load_state_dict(path)
    check_equal(found, {name: tensor.detach() for name, tensor in tensors.items()})
    check_equal(load_file(path), found)
    assert load_metadata(path) == {"relu6_policy": "keep", "größe": "µ"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.safetensors"]


def test_without_metadata_there_is_none(tmp_path: Path) -> None:
    save_state_dict(tmp_path / "x", {"a": torch.ones(1)}, {})
    assert load_metadata(tmp_path / "x") == {}


def test_the_same_content_gives_the_same_bytes_whatever_its_order(tmp_path: Path) -> None:
    metadata = {f"key{number}": str(number) for number in range(20)}
    tensors = {f"tensor{number}": torch.full((number,), float(number)) for number in range(20)}
    save_state_dict(tmp_path / "a", tensors, metadata)
    save_state_dict(tmp_path / "b", dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b")
    check_equal(load_state_dict(tmp_path / "a"), tensors)


def test_a_failed_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    save_state_dict(path, WEIGHTS, {})
    before = path.read_bytes()

    def no_space(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(CheckpointError, match=r"out cannot be written: .*No space left"):
        save_state_dict(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_state_dict(tmp_path / "absent" / "x", WEIGHTS, {})


def test_importing_the_package_loads_neither_torch_nor_requests() -> None:
    program = "import sys, zoo_core.artifacts; print([name for name in ('torch', 'requests') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert result.stdout.strip() == "[]"


@pytest.mark.data
def test_the_stand_in_checkpoint_has_the_published_keys(shared: Path) -> None:
    found = load_state_dict(shared / "data" / "shapes_mb2_ssd_lite.pth")
    assert len(found) == 478
    assert load_metadata(shared / "data" / "shapes_mb2_ssd_lite.pth") == {}
