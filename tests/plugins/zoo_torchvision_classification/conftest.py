from __future__ import annotations

from pathlib import Path

import pytest

from drawn_classes import write_classes


@pytest.fixture(scope="session")
def drawn_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``val`` with 12 and ``train`` with 18 pictures of three classes; do not write into it."""
    return write_classes(tmp_path_factory.mktemp("drawn"))
