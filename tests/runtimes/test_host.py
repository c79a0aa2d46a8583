"""The runtimes of plugins, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from zoo_core.datatypes import Runtime
from zoo_core.errors import PluginError
from zoo_core.hookspecs import hookimpl
from zoo_core.plugins import CORE, PluginHost
from zoo_core.runtimes.onnxruntime import OnnxRuntime
from zoo_runtime_openvino import hooks as openvino_hooks
from zoo_runtime_qnn_htp import hooks as qnn_hooks


class Named(OnnxRuntime):
    def __init__(self, name: str) -> None:
        self.name = name


class Brings:
    def __init__(self, *names: str) -> None:
        self.names = names

    @hookimpl
    def zoo_runtimes(self) -> Sequence[Runtime]:
        return [Named(name) for name in self.names]


def test_runtimes_of_plugins_join_the_built_in_one() -> None:
    host = PluginHost(installed=False)
    host.register(openvino_hooks, "runtime_openvino")
    host.register(qnn_hooks, "runtime_qnn_htp")

    found = host.runtimes()

    assert {name: one.plugin_id for name, one in found.items()} == {
        "onnxruntime": CORE,
        "openvino": "runtime_openvino",
        "qnn-htp": "runtime_qnn_htp",
    }
    assert {name for name, one in found.items() if one.runtime.quantized_input} == {"qnn-htp"}
    assert {name for name, one in found.items() if one.runtime.emulated} == {"qnn-htp"}


@pytest.mark.parametrize(
    ("names", "owner"),
    [(("mine", "mine"), "first"), (("onnxruntime",), CORE), (("torch",), CORE)],
)
def test_a_name_that_is_claimed_twice_is_an_error_that_names_both(names: tuple[str, ...], owner: str) -> None:
    host = PluginHost(installed=False)
    host.register(Brings(*names[1:]), "first")
    host.register(Brings(names[0]), "second")

    with pytest.raises(
        PluginError, match=f"The runtime '{names[0]}' is claimed twice: by {owner} and by plugin 'second'"
    ):
        host.runtimes()


@pytest.mark.parametrize("name", ["../evil", "a b", "", "a@b", "a,b", "-x", ".hidden", "x\n", None])
def test_a_name_that_cannot_be_part_of_a_file_name_is_an_error(name: Any) -> None:
    host = PluginHost(installed=False)
    host.register(Brings(name), "first")

    with pytest.raises(PluginError, match=f"Plugin 'first' calls a runtime {re.escape(repr(name))}"):
        host.runtimes()


@pytest.mark.parametrize("contributed", [[None], ["openvino"], 3])
def test_what_is_no_runtime_is_a_fault_of_its_plugin(contributed: Any) -> None:
    class Wrong:
        @hookimpl
        def zoo_runtimes(self) -> Any:
            return contributed

    host = PluginHost(installed=False)
    host.register(Wrong(), "first")

    with pytest.raises(PluginError, match="Plugin 'first' failed in zoo_runtimes: "):
        host.runtimes()
