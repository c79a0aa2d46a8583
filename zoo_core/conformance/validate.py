"""Checks a plugin, or one of its models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from zoo_core.conformance import running
from zoo_core.conformance.subject import Subject
from zoo_core.errors import PluginError, RegistryError, closest_hint

if TYPE_CHECKING:
    from zoo_core.conformance.outcomes import Outcome
    from zoo_core.evaluation.request import Reporter
    from zoo_core.plugins import PluginHost

Kind: TypeAlias = Literal["model", "plugin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The outcome of every check, by model."""

    models: Mapping[str, Sequence[Outcome]]

    @property
    def passed(self) -> bool:
        """No check failed; checks that could not be made do not count."""
        return all(outcome.status != "failed" for outcomes in self.models.values() for outcome in outcomes)


def validate(name: str, kind: Kind | None, host: PluginHost, reporter: Reporter) -> Validation:
    """Check a model, or every model of a plugin.

    Raises:
        PluginError: It is a plugin that cannot be used; says why.
        RegistryError: No such model or plugin; the closest name is suggested.
    """
    models = models_named(name, kind, host)
    if kind is None and name in models and len(models) > 1:
        reporter.say(
            f"{name!r} is a model and a plugin with {len(models)} models; checking all of them; --as model checks one."
        )
    return Validation(models={model: list(_check(model, host, reporter)) for model in models})


def models_named(name: str, kind: Kind | None, host: PluginHost) -> Sequence[str]:
    """The model called ``name``, or every model of the plugin called ``name``.

    Raises:
        PluginError: It is a plugin that cannot be used; says why.
        RegistryError: No such model or plugin; the closest name is suggested.
    """
    catalog = host.catalog()
    if kind == "model":
        return [host.model(name).model_id]
    for broken in host.broken:
        if broken.plugin_id == name:
            raise PluginError(
                f"Plugin {name!r} cannot be used: {broken.cause}",
                fix="correct it; `zoo-eval doctor --verbose` has the traceback.",
            )
    owned = sorted(entry.model_id for entry in catalog.values() if entry.plugin == name)
    if kind == "plugin" and not owned:
        known = sorted({entry.plugin for entry in catalog.values()})
        raise RegistryError(
            f"There is no plugin {name!r} with a model{closest_hint(name, known)}.",
            fix=f"name one of {', '.join(known) or 'none'}.",
        )
    several = len(owned) > 1 or kind == "plugin" or name not in catalog
    return owned if owned and several else [host.model(name).model_id]


def _check(model: str, host: PluginHost, reporter: Reporter) -> Iterator[Outcome]:
    with Subject(host, model) as subject:
        for outcome in running.run_checks(subject, begin=lambda check: reporter.start(f"{model}: {check.name}", None)):
            reporter.finish()
            yield outcome
