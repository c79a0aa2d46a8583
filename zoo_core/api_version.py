"""The version of what plugins are written against, and which one a plugin says that it needs."""

from __future__ import annotations

from zoo_core.errors import PluginError
from zoo_core.version import __version__

API_VERSION = 1
"""Of the hooks and of what they take and give. It grows when something is added that a plugin may rely on."""

API_NAME = "ZOO_API_VERSION"
"""What a hooks module calls the least version that it needs.

A constant and no hook: it must be known before hooks are looked at, since a plugin for a newer core may well have hooks
that this one does not know.
"""


def check_api_version(plugin_id: str, needed: object) -> None:
    """Accept a version that this core offers.

    Raises:
        PluginError: ``needed`` is a newer version, or none at all.
    """
    if not isinstance(needed, int) or isinstance(needed, bool) or needed < 1:
        raise PluginError(
            f"Plugin {plugin_id!r} declares {API_NAME} = {needed!r}, which is no version.",
            fix=f"write {API_NAME} = {API_VERSION}.",
        )
    if needed > API_VERSION:
        raise PluginError(
            f"Plugin {plugin_id!r} needs version {needed} of the plugin API; zoo-eval {__version__} offers "
            f"{API_VERSION}.",
            fix="upgrade zoo-eval, or install an older release of the plugin.",
        )


def declared_version(plugin: object) -> object:
    """The version that a loaded plugin states; one that states none is taken at its word."""
    return getattr(plugin, API_NAME, API_VERSION)


def declared_in_source(module: str) -> object:
    """The version that a module states, read without running it, for one that could not be imported."""
    import ast
    import importlib.util
    from pathlib import Path

    try:
        spec = importlib.util.find_spec(module)
        body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body if spec and spec.origin else []
    except Exception:  # finding a module imports its package, which may fail in any way
        return API_VERSION
    for node in body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        if any(isinstance(target, ast.Name) and target.id == API_NAME for target in node.targets):
            return node.value.value
    return API_VERSION
