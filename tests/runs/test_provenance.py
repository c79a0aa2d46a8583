from __future__ import annotations

import os

import numpy as np
import pytest

from zoo_core.runs import provenance

MEBIBYTE = 1 << 20


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system cannot begin a peak anew")
def test_a_peak_that_was_taken_does_not_count_again() -> None:
    provenance.take_peak_memory_bytes()
    before = provenance.peak_memory_bytes()
    np.ones(100 * MEBIBYTE // 8)  # given back at once: it is large enough for a mapping of its own

    assert provenance.take_peak_memory_bytes() > before + 90 * MEBIBYTE
    assert provenance.peak_memory_bytes() < before + 50 * MEBIBYTE
