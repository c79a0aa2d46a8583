"""Reads registry files into ``ModelEntry``, and looks models up by name.

Pydantic could check these files too, but importing it and building its schema take about as long as the whole of
``zoo-eval list`` may take. The dataclasses of ``datatypes`` are the schema; this module reads their fields.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from zoo_core.datatypes import (
    ANY_NETWORK,
    LAYOUTS,
    RECORDED_PACKAGES,
    Artifact,
    DatasetEntry,
    Json,
    ModelEntry,
    Reference,
    ReferenceVariant,
)
from zoo_core.errors import RegistryError, closest, closest_hint
from zoo_core.yaml_files import (
    KeyPath,
    YamlFile,
    check_keys,
    describe,
    read_yaml,
    show,
)

Catalog: TypeAlias = "dict[str, ModelEntry]"
Rule: TypeAlias = "Callable[[Any], tuple[str, str] | None]"
"""Takes a value of the declared type; returns None, or the problem and the fix."""

SCHEMA = 1

_MAX_TOLERANCE = 0.2
"""A larger one is points where a fraction belongs: nearly every run would satisfy it."""


def builtin_registry() -> Path:
    """Return the registry file of the bundled models, both in an installed wheel and in a checkout."""
    package = Path(__file__).parent
    installed = package / "registry.yaml"
    return installed if installed.is_file() else package.parent / "registry.yaml"


def load_registry(path: Path) -> Catalog:
    """Read a registry file.

    Args:
        path: The file; each entry's ``source`` becomes this path.

    Returns:
        Entries by model id, in the order of the file.

    Raises:
        RegistryError: The file cannot be read or has problems; all of them are listed, each with line, key and fix.
    """
    file = read_yaml(Path(path), error=RegistryError)
    file.check_schema(SCHEMA)
    content = file.mapping(known=("schema", "models"), required=("schema", "models"))
    models = content.get("models", {})
    if not isinstance(models, dict):
        file.report(("models",), f"expected models, got {describe(models)}", "write model_id: {...} below it")
        models = {}
    catalog = {model_id: _entry(file, model_id, value) for model_id, value in models.items()}
    file.finish()
    return catalog


def find_model(catalog: Mapping[str, ModelEntry], name: str) -> ModelEntry:
    """Return the model called ``name``: a model id, or the name of a plugin that owns one model.

    Raises:
        RegistryError: No model has the name (the closest is named), or the plugin owns several.
    """
    if name in catalog:
        return catalog[name]
    owned = [entry for entry in catalog.values() if entry.plugin == name]
    if len(owned) == 1:
        return owned[0]
    if owned:
        listed = ", ".join(entry.model_id for entry in owned)
        raise RegistryError(f"The plugin {name!r} owns {len(owned)} models.", fix=f"name one of them: {listed}.")
    known = sorted({*catalog, *(entry.plugin for entry in catalog.values())})
    hint = closest_hint(name, known)
    listed = ", ".join(catalog) or "none"
    raise RegistryError(f"There is no model {name!r}{hint}.", fix=f"name one of the known models: {listed}.")


# --------------------------------------------------------------------------- one entry


def _entry(file: YamlFile, model_id: str, value: Json) -> ModelEntry:
    key: KeyPath = ("models", model_id)
    if not re.fullmatch(r"[a-z0-9_]+", model_id):
        file.report(key, f"{show(model_id)} is not a model id", "use only a-z, 0-9 and _")
    entry: ModelEntry = _read(file, key, value, ModelEntry, given={"model_id": model_id, "source": file.path})
    return entry


_WRONG: Any = object()
"""Placeholder for a reported value; ``finish`` raises before it is used."""


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field of a dataclass, and True if the field is required."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return {
        f.name: (hints[f.name], f.default is missing and f.default_factory is missing) for f in dataclasses.fields(kind)
    }


def _read(file: YamlFile, key: KeyPath, value: Json, kind: Any, *, given: Mapping[str, Any] | None = None) -> Any:
    """Build the dataclass ``kind`` from a mapping; ``given`` has the fields that are not in the file."""
    if not isinstance(value, dict):
        file.report(key, f"expected a mapping, got {describe(value)}", f"write {', '.join(_fields(kind))} below")
        return _WRONG
    given = given or {}
    fields = {name: field for name, field in _fields(kind).items() if name not in given}
    check_keys(file, key, value, known=fields, required=[name for name, (_, required) in fields.items() if required])
    values: dict[str, Any] = dict(given)
    for name, (hint, required) in fields.items():
        if name not in value:
            continue
        read = _convert(file, (*key, name), value[name], hint)
        values[name] = read
        if read is _WRONG or read is None:
            continue
        rule = _RULES.get((kind, name)) or (_not_blank if required else None)
        wrong = rule(read) if rule else None
        if wrong:
            file.report((*key, name), *wrong)
    return _WRONG if file.problems else kind(**values)


def _convert(file: YamlFile, key: KeyPath, value: Json, hint: Any) -> Any:
    """Return ``value`` as the type ``hint``; report it and return ``_WRONG`` if it has another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):  # X | None is the only union in a registry
        return None if value is None else _convert(file, key, value, arguments[0])
    if dataclasses.is_dataclass(hint):
        return _read(file, key, value, hint)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(file, (*key, i), item, arguments[0]) for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {name: _convert(file, (*key, name), item, arguments[1]) for name, item in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    expected = _EXPECTED.get(origin or hint, "another kind of value")
    file.report(key, f"expected {expected}, got {describe(value)}", f"write {expected}")
    return _WRONG


_EXPECTED: dict[Any, str] = {
    str: "text (in quotes)",
    int: "a whole number",
    float: "a number",
    tuple: "a list",
    Mapping: "a mapping",
}


# --------------------------------------------------------------------------- rules beyond types


def _not_blank(value: Any) -> tuple[str, str] | None:
    return ("the text is empty", "write a text") if isinstance(value, str) and not value.strip() else None


def _is_url(value: str) -> tuple[str, str] | None:
    if re.fullmatch(r"https://[^\s/]+/\S+", value):
        return None
    inside = re.fullmatch(r"package:[A-Za-z_][A-Za-z0-9_.]*/(\S+)", value)
    if inside and ".." not in inside[1].split("/"):
        return None
    return f"{show(value)} is neither https://... nor package:<import name>/<path>", "give such an address"


def _is_layout(value: str) -> tuple[str, str] | None:
    if value in LAYOUTS:
        return None
    near = closest(value, LAYOUTS)
    fix = f"write {near!r}" if near else f"name one of {', '.join(LAYOUTS)}, or leave it out and implement zoo_dataset"
    return f"{show(value)} is not a layout that zoo-eval opens", fix


def _is_hex(num_digits: int) -> Rule:
    def rule(value: str) -> tuple[str, str] | None:
        if re.fullmatch(rf"[0-9a-f]{{{num_digits}}}", value):
            return None
        fact = f"{show(value)} is not {num_digits} hexadecimal digits in lower case"
        return fact, f"write the {num_digits} digits, or null where they are unknown"

    return rule


def _is_prefix(value: str) -> tuple[str, str] | None:
    if re.fullmatch(r"[0-9a-f]{8,63}", value):
        return None
    fact = f"{show(value)} is not 8 to 63 hexadecimal digits in lower case"
    return fact, "write the digits that are published; a whole hash belongs to sha256"


def _is_requirement(value: str) -> tuple[str, str] | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        Requirement(value)
    except InvalidRequirement:
        return f"{show(value)} is not a requirement of pip", "write for example some-weights==0.1.0"
    return None


def _is_size(value: int) -> tuple[str, str] | None:
    return None if value > 0 else (f"{value} is not a file size", "write the bytes, or null where unknown")


def _is_count(value: int) -> tuple[str, str] | None:
    return None if value > 0 else (f"{value} is not a number of images", "write 1 or more, or null where unknown")


def _are_fingerprints(values: tuple[Any, ...]) -> tuple[str, str] | None:
    wrong = [value for value in values if isinstance(value, str) and not re.fullmatch("[0-9a-f]{64}", value)]
    fix = "copy dataset.fingerprint from run.json of a full run"
    return (f"{show(wrong[0])} is not 64 hexadecimal digits in lower case", fix) if wrong else None


def _is_network(value: str) -> tuple[str, str] | None:
    if value == ANY_NETWORK or re.fullmatch("[0-9a-f]{64}", value):
        return None
    fact = f"{show(value)} is neither 64 hexadecimal digits in lower case nor {show(ANY_NETWORK)}"
    return fact, "write the SHA-256 of the optimized network, or any"


def _is_fraction(value: float) -> tuple[str, str] | None:
    if 0 <= value <= 1:
        return None
    percent = f"{value:g} % is {value / 100:.6g}" if 1 < value <= 100 else "percent is divided by 100"
    return f"{value:g} is outside [0, 1]", f"write a fraction: {percent}"


def _is_tolerance(value: float) -> tuple[str, str] | None:
    if value < 0:
        return f"the tolerance {value:g} is negative", "write how far below the value still counts, 0 or more"
    if _MAX_TOLERANCE < value <= 100:
        return (
            f"the tolerance {value:g} is {100 * value:g} points",
            f"write a fraction: {value:g} points is {value / 100:.6g}",
        )
    return _is_fraction(value)


def _are_fractions(values: Mapping[str, Any]) -> tuple[str, str] | None:
    wrong = [f"{name} {value:g}" for name, value in values.items() if value is not _WRONG and not 0 <= value <= 1]
    return (f"outside [0, 1]: {', '.join(wrong)}", "write fractions, not percent") if wrong else None


def _are_specifiers(values: Mapping[str, Any]) -> tuple[str, str] | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if not values:
        return "no version is named", 'write for example torch: "<2.12"'
    for name, wanted in values.items():
        if name not in RECORDED_PACKAGES:
            return f"runs do not record the version of {show(name)}", f"name one of {', '.join(RECORDED_PACKAGES)}"
        try:
            SpecifierSet("" if wanted is _WRONG else wanted)
        except InvalidSpecifier:
            return f"{show(wanted)} is not a version specifier", 'write for example ">=2.8,<2.12"'
    return None


def _are_settings(values: tuple[Any, ...]) -> tuple[str, str] | None:
    wrong = [value for value in values if isinstance(value, str) and not re.fullmatch(r"[^.=\s]+\.[^.=\s]+=.*", value)]
    fix = "write STEP.PARAM=VALUE, e.g. quantsim.param_bw=4"
    return (f"{show(wrong[0])} is not an override", fix) if wrong else None


def _is_name(value: str) -> tuple[str, str] | None:
    if re.fullmatch(r"[a-z0-9_]+", value):
        return None
    return f"{show(value)} is not a plugin id", "use only a-z, 0-9 and _"


_RULES: dict[tuple[type, str], Rule] = {
    (Artifact, "url"): _is_url,
    (Artifact, "sha256"): _is_hex(64),
    (Artifact, "sha256_prefix"): _is_prefix,
    (Artifact, "md5"): _is_hex(32),
    (Artifact, "size_bytes"): _is_size,
    (Artifact, "requirement"): _is_requirement,
    (DatasetEntry, "name"): _not_blank,
    (DatasetEntry, "layout"): _is_layout,
    (DatasetEntry, "label_file"): _not_blank,
    (DatasetEntry, "num_images"): _is_count,
    (DatasetEntry, "fingerprints"): _are_fingerprints,
    (ModelEntry, "recipes"): _not_blank,
    (Reference, "value"): _is_fraction,
    (Reference, "tolerance"): _is_tolerance,
    (Reference, "per_class"): _are_fractions,
    (Reference, "settings"): _are_settings,
    (Reference, "recipe"): _not_blank,
    (Reference, "num_calibration_images"): _is_count,
    (Reference, "optimized_checkpoint"): _is_network,
    (ReferenceVariant, "versions"): _are_specifiers,
    (ReferenceVariant, "value"): _is_fraction,
    (ReferenceVariant, "tolerance"): _is_tolerance,
    (ModelEntry, "plugin"): _is_name,
}
