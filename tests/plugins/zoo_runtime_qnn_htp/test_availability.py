"""Where the emulator is missing or cannot run, the runtime says why and what to do."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import pytest

from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RuntimeUnsupportedError
from zoo_runtime_qnn_htp.runtime import QnnHtpRuntime

INSTALL = "pip install 'zoo-eval[qnn-htp]'"


@pytest.fixture(autouse=True)
def suitable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the emulator runs, whatever this one is."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "version_info", (3, 11, 7, "final", 0))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.35"))
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "2.7.0")


def absent(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_an_installed_emulator_is_available_with_its_version() -> None:
    found = QnnHtpRuntime().availability()
    assert (found.version, found.reason, found.fix) == ("2.7.0", None, "")


def test_a_missing_emulator_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", absent)
    found = QnnHtpRuntime().availability()
    assert (found.version, found.reason, found.fix) == (None, "onnxruntime-qnn is not installed.", INSTALL)
    with pytest.raises(RuntimeUnsupportedError, match="qnn-htp cannot be used: onnxruntime-qnn is not installed"):
        QnnHtpRuntime().load(b"", LoadOptions())


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("machine", "aarch64", "runs on Linux on x86-64; this is linux on aarch64."),
        ("libc_ver", ("glibc", "2.31"), "needs glibc 2.35; this system has glibc 2.31."),
        ("libc_ver", ("", ""), "needs glibc 2.35; this system has another C library."),
    ],
)
def test_an_unsuitable_system_is_named_before_the_installation(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, reason: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(platform, name, lambda: value)

    found = QnnHtpRuntime().availability()

    assert found.reason == f"The emulator {reason}"
    assert "pip install" not in found.fix


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 14, "final", 0))
    found = QnnHtpRuntime().availability()
    assert found.reason == "The emulator needs Python 3.11; this is 3.10."
    assert found.fix == f"use Python 3.11 or newer, and there {INSTALL}"


def test_an_emulator_that_cannot_be_imported_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from quantized_networks import quantized_model

    model = quantized_model()
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(RuntimeUnsupportedError, match=r"qnn-htp cannot be used: .*import of onnxruntime_qnn") as caught:
        QnnHtpRuntime().load(model, LoadOptions())
    assert caught.value.fix == INSTALL
