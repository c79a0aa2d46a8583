"""Reads recipe files into ordered lists of quantization steps, and applies settings from the command line.

Parameters are checked later, by the step that they belong to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from zoo_core.datatypes import Json, Recipe, StepSpec
from zoo_core.errors import RecipeError, closest_hint
from zoo_core.yaml_files import (
    KeyPath,
    Problem,
    YamlFile,
    describe,
    parse_value,
    raise_together,
    read_yaml,
    show,
    to_yaml,
)

SCHEMA = 1
QUANTSIM = "quantsim"
"""Last step of every recipe, with bit widths, scheme and config file."""

_SHIPPED = Path(__file__).parent / "shipped"
SHIPPED_RECIPES = _SHIPPED / "recipes"
"""Recipe files that any model may name."""

_KEYS = ("schema", "name", "description", "steps")


def names_a_file(recipe: str) -> bool:
    """Return True if ``recipe`` is a file's path rather than the name of a recipe."""
    return recipe.endswith((".yaml", ".yml")) or "/" in recipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Args:
        path: The file; paths inside the recipe are relative to it.

    Raises:
        RecipeError: The file cannot be read or has problems; all of them are listed, each with line, key and fix.
    """
    file = read_yaml(Path(path), error=RecipeError)
    file.check_schema(SCHEMA)
    content = file.mapping(known=_KEYS, required=_KEYS)
    for key in ("name", "description"):
        value = content.get(key)
        if key in content and not (isinstance(value, str) and value.strip()):
            file.report((key,), f"expected text, got {describe(value)}", f"write the recipe's {key}")
    steps = _steps(file, content["steps"]) if "steps" in content else ()
    file.finish()
    name, description = str(content["name"]), str(content["description"])
    return Recipe(name=name, description=description, steps=steps, source=file.path, sha256=recipe_sha256(name, steps))


def find_recipe(name: str, places: Sequence[Path], *, model_id: str) -> Recipe:
    """Read the recipe called ``name`` from recipe files and folders of recipe files.

    Args:
        name: A file's name without ``.yaml``; only files in ``places`` are opened.
        places: Searched in this order.
        model_id: The model that errors name.

    Raises:
        RecipeError: The recipe or a place does not exist, or as ``load_recipe``.
    """
    files: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise RecipeError(f"{model_id}.recipes names {place}, which does not exist.", fix="correct the path.")
        for path in sorted(place.glob("*.yaml")) if place.is_dir() else [place]:
            files.setdefault(path.stem, path)
    shipped = sorted(files)
    if name not in shipped:
        hint = closest_hint(name, shipped, cutoff=0.0)  # a short name is far from what it abbreviates
        raise RecipeError(
            f"{model_id} has no recipe {name!r}{hint}.",
            fix=f"choose one of {', '.join(shipped) or 'none'}, or give a recipe file's path.",
        )
    return load_recipe(files[name])


def shipped_configs() -> dict[str, Path]:
    """Return the AIMET configurations that a recipe may name instead of a file, by name."""
    return {path.stem: path for path in sorted((_SHIPPED / "aimet_configs").glob("*.json"))}


def config_path(recipe_file: Path, named: str) -> Path:
    """Resolve a recipe's ``config_file`` to the path of an AIMET configuration.

    Args:
        recipe_file: The recipe's file; a path is relative to its folder.
        named: Name of a shipped configuration, or a path.

    Raises:
        RecipeError: It looks like a name, and no shipped configuration has it.
    """
    shipped = shipped_configs()
    if named in shipped:
        return shipped[named]
    path = recipe_file.parent / named
    if "/" not in named and not path.suffix and not path.exists():
        raise RecipeError(
            f"there is no AIMET configuration {named!r}{closest_hint(named, shipped)}",
            fix=f"name one of {', '.join(shipped)}, or give a path relative to the recipe.",
        )
    return path


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return the recipe with ``STEP.PARAM=VALUE`` settings applied; later ones win.

    Args:
        recipe: Not modified.
        settings: VALUE is read as in a recipe file: ``8``, ``1e-2``, ``true``, ``null``, ``replace``, ``[20, 2]``.

    Raises:
        RecipeError: A setting has another form, or names a step that the recipe does not have. Parameter names are
            checked later, by the step.
    """
    params = {spec.step: dict(spec.params) for spec in recipe.steps}
    problems: list[Problem] = []
    for setting in settings:
        parts = re.fullmatch(r"\s*([^.=\s]+)\.([^.=\s]+)\s*=(.*)", setting, flags=re.DOTALL)
        if parts is None:
            problems.append(_bad_setting(setting, "the form is not STEP.PARAM=VALUE", "write e.g. quantsim.param_bw=8"))
            continue
        step, param, text = parts.groups()
        if step not in params:
            hint = closest_hint(step, params)
            fact = f"the recipe {recipe.name!r} has no step {step!r}{hint}"
            problems.append(_bad_setting(setting, fact, f"name one of its steps: {', '.join(params)}"))
            continue
        try:
            params[step][param] = parse_value(text)
        except ValueError as cause:
            problems.append(
                _bad_setting(setting, f"the value cannot be read ({cause})", "write it as in a recipe file")
            )
    raise_together(problems, RecipeError, what="The command line")
    steps = tuple(StepSpec(step=spec.step, params=params[spec.step]) for spec in recipe.steps)
    return dataclasses.replace(recipe, steps=steps, sha256=recipe_sha256(recipe.name, steps))


def _bad_setting(setting: str, fact: str, fix: str) -> Problem:
    return Problem(place=f"--set {show(setting)}", fact=fact, fix=fix)


def recipe_text(recipe: Recipe) -> str:
    """Write the effective recipe as a file that ``load_recipe`` reads back with the same SHA-256."""
    steps: list[Json] = [{"step": spec.step, **spec.params} for spec in recipe.steps]
    return to_yaml({"schema": SCHEMA, "name": recipe.name, "description": recipe.description, "steps": steps})


def recipe_sha256(name: str, steps: Sequence[StepSpec]) -> str:
    """Return the SHA-256 of a recipe's content as used: canonical JSON of its name and steps, in their order."""
    content = {"name": name, "steps": [{"step": spec.step, "params": dict(spec.params)} for spec in steps]}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _steps(file: YamlFile, value: Json) -> tuple[StepSpec, ...]:
    key: KeyPath = ("steps",)
    if not isinstance(value, list) or not value:
        file.report(key, f"expected steps, got {describe(value)}", "write a list of '- step: NAME'")
        return ()
    names: list[str] = []
    specs: list[StepSpec] = []
    for index, item in enumerate(value):
        where = (*key, index)
        name = item.get("step") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]+", name):
            file.report(where, f"{show(item)} does not name a step", "write '- step: NAME', parameters below it")
            continue
        if name in names:
            file.report(where, f"the step {name!r} is repeated", "keep one of the two")
        names.append(name)
        specs.append(StepSpec(step=name, params={param: item[param] for param in item if param != "step"}))
    if names and QUANTSIM in names[:-1]:
        file.report((*key, names.index(QUANTSIM)), f"{QUANTSIM} comes before other steps", "make it the last step")
    elif names and names[-1] != QUANTSIM:
        file.report((*key, len(value) - 1), f"the last step is {names[-1]!r}", f"end the recipe with {QUANTSIM}")
    return tuple(specs)
