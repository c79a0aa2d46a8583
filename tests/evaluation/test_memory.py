from __future__ import annotations

from typing import NoReturn

import pytest

from zoo_core.errors import PluginCrashError, RunError
from zoo_core.evaluation.memory import out_of_memory, with_less_memory


def raising(error: Exception, cause: Exception) -> NoReturn:
    raise error from cause


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[ONNXRuntimeError] Failed to allocate memory for requested buffer of size 9"),
    ],
)
def test_out_of_memory_is_known_by_whoever_says_it_and_behind_a_plugins_crash(error: Exception) -> None:
    assert out_of_memory(error) == f"{type(error).__name__}: {error}"
    with pytest.raises(PluginCrashError) as caught:
        raising(PluginCrashError("Plugin 'p' failed", fix="report it"), error)
    assert out_of_memory(caught.value) == f"{type(error).__name__}: {error}"


def test_other_errors_are_not_out_of_memory() -> None:
    assert out_of_memory(RuntimeError("size mismatch")) is None
    with pytest.raises(RuntimeError, match="size mismatch"):
        with_less_memory(4, lambda _size, _alone: raising(RuntimeError("size mismatch"), ValueError()), lambda *_: None)


def tried(suffices: tuple[int, bool] | None) -> tuple[list[tuple[int, bool]], list[tuple[int, int]]]:
    """What is tried, and what is restarted, until memory suffices."""
    runs: list[tuple[int, bool]] = []
    restarts: list[tuple[int, int]] = []

    def run(batch_size: int, alone: bool) -> str:
        runs.append((batch_size, alone))
        if (batch_size, alone) != suffices:
            raise MemoryError
        return "done"

    assert with_less_memory(12, run, lambda was, now: restarts.append((was, now))) == "done"
    return runs, restarts


def test_half_the_batch_size_is_tried_until_memory_suffices() -> None:
    assert tried((3, False)) == ([(12, False), (6, False), (3, False)], [(12, 6), (6, 3)])


def test_the_last_resort_is_one_batch_at_a_time_which_is_no_restart() -> None:
    runs, restarts = tried((1, True))

    assert runs[-3:] == [(3, False), (1, False), (1, True)]
    assert restarts == [(12, 6), (6, 3), (3, 1)]


def test_when_nothing_suffices_the_error_says_so() -> None:
    with pytest.raises(RunError, match=r"There is not enough memory for one image at a time \(MemoryError: \)"):
        tried(None)
