"""Contributes the runtime ``openvino``; its library is imported when the runtime is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from zoo_core.datatypes import Runtime


@hookimpl
def zoo_runtimes() -> Sequence[Runtime]:
    """Return the runtime; see ``hookspecs.zoo_runtimes``."""
    from zoo_runtime_openvino.runtime import OpenVinoRuntime

    return (OpenVinoRuntime(),)
