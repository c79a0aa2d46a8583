"""Creates the package of a new plugin: ``zoo-eval new-plugin``."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from zoo_core.errors import PluginError
from zoo_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoo_core.plugins import PluginHost

Task: TypeAlias = Literal["detection", "classification"]

TASKS: tuple[Task, ...] = ("detection", "classification")

_TEMPLATES = Path(__file__).parent / "templates"
_LAYOUTS = {"detection": "VOC layout", "classification": "ImageNet's layout"}
_FOLDERS = {
    "detection": "`ImageSets/Main`, `Annotations` and `JPEGImages`",
    "classification": "`<split>/<class>/*.jpg`",
}
_RENDERED = ".j2"
_PACKAGE = "package"
"""Placeholder for the plugin's name in the templates' paths."""


def new_plugin(name: str, task: Task, out: Path, host: PluginHost) -> list[Path]:
    """Write a package that passes its own tests and ``zoo-eval validate`` unchanged.

    Args:
        name: Name of the package, the plugin and its model.
        task: Task of the model.
        out: Parent directory of the package's folder.
        host: Provides the names that are in use.

    Returns:
        The files, sorted; the first folder below ``out`` is called ``name``.

    Raises:
        PluginError: The name cannot be used, the folder exists, or it cannot be written.
    """
    check_name(name, host)
    folder = out / name
    if folder.exists() or folder.is_symlink():
        raise PluginError(f"{folder} exists already; nothing is overwritten.", fix="give another name, or --out DIR.")
    try:
        files = sorted(_write(folder, name, task))
    except OSError as error:
        raise PluginError(
            f"{error.filename or folder} cannot be written: {error.strerror}.", fix="name a writable folder with --out."
        ) from error
    return files


def check_name(name: str, host: PluginHost) -> None:
    """Check that a name is valid for a package, a plugin and a model, and not in use.

    Raises:
        PluginError: The name is not valid, or in use.
    """
    import importlib.util

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise PluginError(
            f"{name!r} cannot be the name of a plugin.",
            fix="begin with a letter, use only a-z, 0-9 and _, and avoid Python keywords.",
        )
    taken = None
    if name in host.plugin_ids:
        taken = "a plugin"
    elif name in host.catalog():
        taken = f"a model ({host.catalog()[name].source})"
    elif importlib.util.find_spec(name) is not None:
        taken = "an installed package"
    if taken is not None:
        raise PluginError(f"{name!r} is {taken} already.", fix="choose another name.")


def _write(folder: Path, name: str, task: Task) -> Iterator[Path]:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701  # no HTML
    values = {
        "name": name,
        "task": task,
        "layout": _LAYOUTS[task],
        "folders": _FOLDERS[task],
        "version": __version__,
    }
    for root in (_TEMPLATES / "common", _TEMPLATES / task):
        for template in sorted(path for path in root.rglob("*") if path.is_file()):
            parts = [name if part == _PACKAGE else part for part in template.relative_to(root).parts]
            target = folder.joinpath(*parts)
            text = template.read_text(encoding="utf-8")
            if target.suffix == _RENDERED:
                target = target.with_suffix("")
                text = environment.from_string(text).render(values)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            yield target
