"""Errors that a user can act on; the command line prints them without a traceback.

``ZooError``
├── ``PluginError``      a plugin is missing, cannot be loaded, or breaks a hook's contract
│   └── ``PluginCrashError``  a hook raised something unexpected
├── ``RegistryError``    registry.yaml or a name in it
├── ``RecipeError``      a recipe file, a step's parameter, an effect that the recipe expects of a step
├── ``DataError``        a dataset, an image, an annotation, a label file
├── ``CheckpointError``  weights that cannot be read or do not fit the network
├── ``ArtifactError``    a download, a checksum, the cache
├── ``RuntimeUnsupportedError``  a runtime that is missing, or cannot execute a network
└── ``RunError``         a run directory
    └── ``RunCrashError``  a run stopped on something unexpected

``RunInterruptedError`` is a KeyboardInterrupt with the directory of the interrupted run.
"""

from collections.abc import Iterable
from pathlib import Path

_MAX_COMPARED = 200
"""Characters of a name that are compared: the time grows with the square of the length."""


class ZooError(Exception):
    """States a fact, then the fix.

    Args:
        fact: The problem, with the actual value and its source.
        fix: The next action, in the imperative.

    Attributes:
        exit_code: Exit code of the command line: 2 where the user can correct it, 3 where the run itself failed.
    """

    exit_code = 2

    def __init__(self, fact: str, *, fix: str) -> None:
        super().__init__(f"{fact}\n  fix: {fix}")
        self.fact = fact
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by their positional arguments only; an error must survive the way back from a worker.
        return _rebuild, (type(self), self.fact, self.fix)


def _rebuild(kind: type[ZooError], fact: str, fix: str) -> ZooError:
    return kind(fact, fix=fix)


class PluginError(ZooError):
    """A plugin is missing, cannot be loaded, or breaks the contract of a hook."""


class PluginCrashError(PluginError):
    """A plugin's hook raised an exception other than ZooError: a fault of the plugin, not of the user."""

    exit_code = 3


class RegistryError(ZooError):
    """A registry file, or a name looked up in it, is wrong."""


class RecipeError(ZooError):
    """A recipe file or a step's parameter is wrong, or a step did not have the effect that the recipe expects."""


class DataError(ZooError):
    """A dataset, an image, an annotation or a label file cannot be used."""


class CheckpointError(ZooError):
    """Weights cannot be read safely, or do not fit the network."""


class ArtifactError(ZooError):
    """A downloaded or cached file is missing, incomplete, or not the one that was declared."""


class RuntimeUnsupportedError(ZooError):
    """A runtime is not installed, cannot execute a network, or only with a fallback that was not allowed."""


class RunError(ZooError):
    """A run directory cannot be written or read."""


class RunCrashError(RunError):
    """A run failed after it started, through no fault of the user; its log has the traceback."""

    exit_code = 3


class RunInterruptedError(KeyboardInterrupt):
    """Ctrl-C, or a signal turned into one, ended a run that can be resumed.

    Attributes:
        run_dir: The run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(str(run_dir))
        self.run_dir = run_dir


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name most similar to ``name``, or None if no similarity in ``[0, 1]`` reaches ``cutoff``."""
    from difflib import get_close_matches  # only an error needs it

    return next(iter(get_close_matches(name[:_MAX_COMPARED], list(known), n=1, cutoff=cutoff)), None)


def closest_hint(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``"; the closest is 'x'"`` to append to a fact about an unknown name, or ``""``; see ``closest``."""
    near = closest(name, known, cutoff=cutoff)
    return f"; the closest is {near!r}" if near else ""
