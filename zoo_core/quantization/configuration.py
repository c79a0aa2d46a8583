"""Reads AIMET configuration files, checked against AIMET's own schema.

A run copies its configuration into folders that people share, so a file that is no AIMET configuration must be refused
before that. Importing this module loads neither torch nor AIMET.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import runpy
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import RecipeError
from zoo_core.files import read_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zoo_core.datatypes import QuantSettings

MAX_BYTES = 1 << 20
"""Largest configuration that is read; the largest of AIMET's own has 20 KB."""

_SCHEMA_FILE = "common/quantsim_config/quantsim_config_schema.py"
_FIX = "name a shipped configuration, or follow AIMET's guide to configuration files."


def read_configuration(path: Path) -> tuple[Mapping[str, Any], bytes]:
    """Return an AIMET configuration, parsed and as bytes.

    Raises:
        RecipeError: The file is missing, not a regular file, larger than ``MAX_BYTES``, not JSON, or does not follow
            AIMET's schema. The message never quotes the file, which may be a private one named by mistake.
    """
    try:
        data = read_regular_file(path, max_bytes=MAX_BYTES)
    except FileNotFoundError as error:
        raise RecipeError(f"{path} does not exist", fix=_FIX) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{path} cannot be read: {reason}", fix=_FIX) from error
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not readable JSON: {error}", fix=_FIX) from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is not a JSON object", fix=_FIX)
    problem = _schema_problem(content)
    if problem is not None:
        raise RecipeError(f"{path} is not an AIMET configuration: {problem}", fix=_FIX)
    return content, data


def configuration_of(quant: QuantSettings) -> Mapping[str, Any]:
    """Return the configuration that a network is simulated with: the file's, with ``quant.input`` applied.

    Raises:
        RecipeError: As ``read_configuration``.
    """
    content, _ = read_configuration(quant.config_file)
    if quant.input is None:
        return content
    # AIMET refuses "False" here: an input stays in float where the key is missing.
    return {**content, "model_input": {"is_input_quantized": "True"} if quant.input == "quantized" else {}}


@contextmanager
def configuration_file(quant: QuantSettings) -> Iterator[Path]:
    """Yield a file with ``configuration_of(quant)``, which AIMET takes as a path only.

    Raises:
        RecipeError: As ``read_configuration``.
    """
    if quant.input is None:
        yield quant.config_file
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / quant.config_file.name
        path.write_text(json.dumps(configuration_of(quant)), encoding="utf-8")
        yield path


def _schema_problem(content: object) -> str | None:
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(content))
    if error is None:
        return None
    where = ".".join(map(str, error.absolute_path)) or "the whole file"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{where} lacks {', '.join(map(repr, missing))}"
    if error.validator == "additionalProperties":
        return f"{where} has keys other than {', '.join(error.schema['properties'])}"
    return f"{where} breaks the rule {error.validator!r} ({error.validator_value})"


@functools.cache
def _validator() -> Any:
    from jsonschema.validators import validator_for

    package = importlib.util.find_spec("aimet_torch")
    folders = package.submodule_search_locations if package is not None else None
    if not folders:
        raise RecipeError("aimet_torch is not installed", fix="install zoo-eval with its requirements.")
    # Importing the schema's module would import AIMET with torch, which takes seconds; it holds only this constant.
    schema = runpy.run_path(str(Path(folders[0]) / _SCHEMA_FILE))["QUANTSIM_CONFIG_SCHEMA"]
    return validator_for(schema)(schema)
