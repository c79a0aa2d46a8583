from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from zoo_core.runs import provenance

MEBIBYTE = 1 << 20

THREADS_OF_MKL = """
import re, torch
from zoo_core.runs.provenance import fixed_threads

def of_mkl():
    return re.findall(r"mkl_get_max_threads.*: (\\d+)", torch.__config__.parallel_info())

with fixed_threads():
    inside = of_mkl()
print(torch.get_num_threads(), *inside)
"""


def test_a_run_computes_with_the_threads_that_it_records_whatever_mkl_was_told() -> None:
    variables = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", THREADS_OF_MKL]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)  # noqa: S603 - no shell
    torch_threads, *of_mkl = done.stdout.split()
    assert of_mkl in ([torch_threads], [])  # a torch without MKL says nothing of it


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with provenance.fixed_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system cannot begin a peak anew")
def test_a_peak_that_was_taken_does_not_count_again() -> None:
    # A process of its own: one that ran many tests may give memory back at the same moment.
    program = f"""
import numpy as np
from zoo_core.runs import provenance

provenance.take_peak_memory_bytes()
before = provenance.peak_memory_bytes()
np.ones(100 * {MEBIBYTE} // 8)  # given back at once: it is large enough for a mapping of its own
print(provenance.take_peak_memory_bytes() - before, provenance.peak_memory_bytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    taken, left = map(int, done.stdout.split())

    assert taken > 90 * MEBIBYTE
    assert left < 50 * MEBIBYTE
