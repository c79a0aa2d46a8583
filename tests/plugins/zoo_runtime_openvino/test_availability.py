"""Where OpenVINO is missing, the runtime says what to install."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from zoo_core.datatypes import Availability, LoadOptions
from zoo_core.errors import RuntimeUnsupportedError
from zoo_runtime_openvino.runtime import OpenVinoRuntime


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "openvino":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "openvino", None)


def test_a_missing_openvino_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch)

    assert OpenVinoRuntime().availability() == Availability(
        version=None, reason="OpenVINO is not installed.", fix="pip install 'zoo-eval[openvino]'"
    )
    with pytest.raises(RuntimeUnsupportedError, match="openvino cannot be used: OpenVINO is not installed") as caught:
        OpenVinoRuntime().load(b"", LoadOptions())
    assert caught.value.fix == "pip install 'zoo-eval[openvino]'"


def test_an_openvino_that_cannot_be_imported_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "2025.0.0")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeUnsupportedError, match=r"openvino cannot be used: .*import of openvino"):
        OpenVinoRuntime().load(b"", LoadOptions())
