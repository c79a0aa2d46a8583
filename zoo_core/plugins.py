"""Finds plugins, isolates their failures, and calls the owning plugin's hooks with static types."""

from __future__ import annotations

import dataclasses
import re
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pluggy

from zoo_core import defaults, hookspecs, runtimes, tasks
from zoo_core.errors import PluginError, RegistryError, ZooError, closest
from zoo_core.guards import (
    GuardedDataset,
    GuardedMetric,
    Naming,
    guarded_bundle,
    guarded_kit,
    guarded_step,
    guarded_task,
)

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from zoo_core.datatypes import (
        Availability,
        Checkpoint,
        ConformanceKit,
        DatasetRequest,
        EvalDataset,
        Metric,
        ModelBundle,
        ModelEntry,
        Recipe,
        RecipeStep,
        Runtime,
        Task,
    )
    from zoo_core.runs.record import MetricsRecord, RunRecord

ENTRY_POINT_GROUP = "zoo_eval"

DISTRIBUTION = "zoo-eval"
"""Package whose plugins keep their names where another one declares them too."""

CORE = "zoo_core"
"""Name under which the built-in answers to hooks are registered; not among ``PluginHost.plugin_ids``."""


_RUNTIME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPlugin:
    """Plugin that cannot be used, with the cause.

    Attributes:
        plugin_id: Its entry point's name.
        cause: One line.
        details: The traceback, for ``zoo-eval doctor --verbose``.
    """

    plugin_id: str
    cause: str
    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedRuntime:
    """Runtime with the plugin that brings it, ``zoo_core`` for a built-in one."""

    plugin_id: str
    runtime: Runtime

    def availability(self) -> Availability:
        """Return whether the runtime can be used here; an unexpected error names the plugin."""
        with Naming(self.plugin_id, "availability of zoo_runtimes"):
            return self.runtime.availability()


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _bundled(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name.lower().replace("_", "-") == DISTRIBUTION


class PluginHost:
    """Manages the plugins of one run. Create one per run and per test; there is no global instance.

    Args:
        installed: Find plugins through the entry-point group ``zoo_eval``. Each is imported when first needed.
        registries: Registry files whose models are known to this host besides those of plugins.
    """

    def __init__(self, *, installed: bool = True, registries: Sequence[Path] = ()) -> None:
        self._manager = _manager()
        self._manager.register(tasks, name=CORE)
        self._defaults = _manager()
        self._defaults.register(defaults, name=CORE)
        self._registries = tuple(registries)
        self._pending: dict[str, Callable[[], object]] = {}
        self._broken: dict[str, BrokenPlugin] = {}
        self._catalog: dict[str, ModelEntry] | None = None
        self._claims: dict[str, list[str]] = {}
        self._points: dict[str, EntryPoint] = {}
        if installed:
            for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda one: (one.name, not _bundled(one))):
                self._add_installed(point)

    def register(self, plugin: object, plugin_id: str) -> None:
        """Add a plugin that is not installed, such as a test's own.

        Args:
            plugin: A module or object whose functions are marked with ``hookimpl``.
            plugin_id: The name that registry entries use for it.
        """
        self._add(plugin_id, lambda: plugin)
        self._catalog = None

    def _add_installed(self, point: EntryPoint) -> None:
        first = self._points.setdefault(point.name, point)
        if first is point or not _bundled(first):
            self._add(point.name, point.load)
            return
        other = "an unknown package" if point.dist is None else point.dist.name
        error = PluginError(
            f"The package {other} declares the plugin name {point.name!r}, which a plugin of zoo-eval has; "
            f"zoo-eval's own is used.",
            fix=f"rename the entry point, or uninstall {other}.",
        )
        self._break(f"{point.name} of {other}", error)

    def _add(self, plugin_id: str, load: Callable[[], object]) -> None:
        if plugin_id in self._pending or self._manager.has_plugin(plugin_id):
            self._break(
                plugin_id,
                PluginError(
                    f"The plugin name {plugin_id!r} is declared twice.",
                    fix="uninstall one of the packages that declare it, or rename its entry point.",
                ),
            )
            return
        self._pending[plugin_id] = load

    # ------------------------------------------------------------------ plugins and models

    @property
    def plugin_ids(self) -> tuple[str, ...]:
        """Return the names of all declared plugins, broken ones included."""
        loaded = {name for name, _ in self._manager.list_name_plugin()} - {CORE}
        return tuple(sorted({*self._pending, *self._broken, *loaded}))

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """Load all plugins and return those that cannot be used."""
        self.catalog()
        return tuple(self._broken[name] for name in sorted(self._broken))

    def distribution(self, plugin_id: str) -> Distribution | None:
        """Return the distribution that declares a plugin; None for one that was registered, or is not installed."""
        point = self._points.get(plugin_id)
        return None if point is None else point.dist

    def modules(self, plugin_id: str) -> frozenset[str]:
        """Load a plugin and return the names of the modules that define its hooks; empty if it cannot be used."""
        self._load(plugin_id)
        plugin = self._manager.get_plugin(plugin_id)
        if plugin is None:
            return frozenset()
        hooks = self._manager.get_hookcallers(plugin) or ()
        found = {impl.function.__module__ for hook in hooks for impl in hook.get_hookimpls() if impl.plugin is plugin}
        if plugin_id in self._points:
            found.add(self._points[plugin_id].module)
        elif isinstance(plugin, ModuleType):
            found.add(plugin.__name__)
        return frozenset(found)

    def catalog(self) -> dict[str, ModelEntry]:
        """Return all models by name: the built-in registry, the host's ``registries``, and each plugin's registry file.

        A plugin whose registry file is wrong is reported among ``broken`` and adds nothing. A name claimed twice
        stays in the catalogue; asking for it is an error that names both.

        Raises:
            RegistryError: The built-in registry file or one of ``registries`` is wrong.
        """
        if self._catalog is None:
            from zoo_core import registry

            catalog: dict[str, ModelEntry] = {}
            self._claims = {}
            for path in (registry.builtin_registry(), *self._registries):
                self._enter(catalog, registry.load_registry(path))
            self._load_all()
            for plugin_id, path in self._ask_everyone("zoo_registry"):
                try:
                    entries = registry.load_registry(Path(path))
                except ZooError as error:
                    self._break(plugin_id, error)
                    continue
                for name in self._enter(catalog, entries):
                    self._break(plugin_id, self._claimed_twice(name))
            self._catalog = catalog
        return self._catalog

    def _enter(self, catalog: dict[str, ModelEntry], entries: Mapping[str, ModelEntry]) -> list[str]:
        """Add entries to the catalogue and return the names that were already in it."""
        repeated = []
        for name, entry in entries.items():
            self._claims.setdefault(name, []).append(str(entry.source))
            if catalog.setdefault(name, entry) is not entry:
                repeated.append(name)
        return repeated

    def recorded_model(self, model_id: str, registry: str | None) -> ModelEntry:
        """Return the entry of a run's model; one that no plugin lists comes from the registry file that the run used.

        Raises:
            RegistryError: Neither the model nor the file exists any more.
        """
        if registry is not None and model_id not in self.catalog():
            from zoo_core.registry import load_registry

            if not Path(registry).is_file():
                raise RegistryError(
                    f"No plugin has the model {model_id!r}, and its registry file {registry} does not exist.",
                    fix="put the file back, or install the plugin of the model.",
                )
            self._enter(self.catalog(), load_registry(Path(registry)))
        return self.model(model_id)

    def model(self, name: str) -> ModelEntry:
        """Return the entry of a model, by its registry name or by the name of a plugin that owns one model.

        Raises:
            RegistryError: No such model; the closest name is suggested, and plugins that cannot be used are named.
            PluginError: The name is claimed twice.
        """
        from zoo_core import registry

        try:
            entry = registry.find_model(self.catalog(), name)
        except RegistryError as error:
            if not self._broken:
                raise
            causes = "".join(f"\n  plugin {plugin.plugin_id!r}: {plugin.cause}" for plugin in self._broken.values())
            raise RegistryError(
                f"{error.fact} Models of plugins that cannot be used are missing:{causes}", fix=error.fix
            ) from error
        if len(self._claims.get(entry.model_id, ())) > 1:
            raise self._claimed_twice(entry.model_id)
        return entry

    def _claimed_twice(self, name: str) -> PluginError:
        files = " and ".join(self._claims[name])
        return PluginError(
            f"Model {name!r} is claimed twice: by {files}.",
            fix="give one of the models another name in its registry file, or uninstall one of the plugins.",
        )

    # ------------------------------------------------------------------ hooks of the owning plugin, or its defaults

    def load_model(
        self, entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
    ) -> ModelBundle:
        """Call ``zoo_load_model`` of the plugin that owns ``entry``."""
        result = self._ask_owner(
            entry, "zoo_load_model", entry=entry, checkpoint=checkpoint, class_names=class_names, device=device
        )
        return guarded_bundle(cast("ModelBundle", result), entry.plugin)

    def recipe(self, entry: ModelEntry, name: str) -> Recipe:
        """Call ``zoo_recipe`` of the plugin that owns ``entry``, or read the recipe files that the entry declares."""
        return cast("Recipe", self._ask_owner(entry, "zoo_recipe", entry=entry, name=name))

    def dataset(self, entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
        """Call ``zoo_dataset`` of the plugin that owns ``entry``, or open the layout that the entry declares."""
        request = dataclasses.replace(request, label_file=request.label_file or defaults.label_file(entry))
        dataset = cast("EvalDataset", self._ask_owner(entry, "zoo_dataset", entry=entry, request=request))
        return GuardedDataset(dataset, entry.plugin)

    def metric(self, entry: ModelEntry, class_names: Sequence[str]) -> Metric:
        """Call ``zoo_metric`` of the plugin that owns ``entry``, or make the metric of the entry's task."""
        metric = cast("Metric", self._ask_owner(entry, "zoo_metric", entry=entry, class_names=class_names))
        return GuardedMetric(metric, entry.plugin)

    def conformance_kit(self, entry: ModelEntry, directory: Path) -> ConformanceKit | None:
        """Call ``zoo_conformance`` of the plugin that owns ``entry``, or draw in the layout that the entry declares.

        Returns:
            None where the plugin does not implement it and the entry declares no layout.
        """
        kit = self._answer(entry, "zoo_conformance", entry=entry, directory=directory)
        return None if kit is None else guarded_kit(cast("ConformanceKit", kit), entry.plugin)

    def _owners_caller(self, entry: ModelEntry, hook: str) -> pluggy.HookCaller:
        owner = self._owner(entry)
        others = [plugin for plugin in self._manager.get_plugins() if plugin is not owner]
        return self._manager.subset_hook_caller(hook, remove_plugins=others)

    def _answer(self, entry: ModelEntry, hook: str, /, **arguments: object) -> object:
        """Ask the owner, then the defaults; None where neither answers."""
        caller = self._owners_caller(entry, hook)
        with Naming(entry.plugin, hook):
            result: object = caller(**arguments)
        if result is None:
            with Naming("zoo_core", hook):
                result = getattr(self._defaults.hook, hook)(**arguments)
        return result

    def _ask_owner(self, entry: ModelEntry, hook: str, /, **arguments: object) -> object:
        result = self._answer(entry, hook, **arguments)
        if result is not None:
            return result
        implemented = self._owners_caller(entry, hook).get_hookimpls()
        did = f"returned nothing from {hook} for" if implemented else f"does not implement {hook}, which is needed by"
        declare = f", or {defaults.DECLARE[hook]}" if hook in defaults.DECLARE else ""
        raise PluginError(
            f"Plugin {entry.plugin!r} {did} model {entry.model_id!r} ({entry.source}).",
            fix=f"return a value from {hook} in the plugin's hooks module (docs/hooks.md gives its contract){declare}.",
        )

    def _owner(self, entry: ModelEntry) -> object:
        self._load(entry.plugin)
        if entry.plugin in self._broken and not self._manager.has_plugin(entry.plugin):
            broken = self._broken[entry.plugin]
            raise PluginError(
                f"Plugin {entry.plugin!r}, which owns model {entry.model_id!r}, cannot be used: {broken.cause}",
                fix="run `zoo-eval doctor --verbose` for the traceback, and repair or reinstall the plugin.",
            )
        if not self._manager.has_plugin(entry.plugin):
            near = closest(entry.plugin, self.plugin_ids)
            hint = f"; the closest is {near!r}" if near else ""
            raise PluginError(
                f"Model {entry.model_id!r} ({entry.source}) belongs to plugin {entry.plugin!r}, "
                f"which is not installed{hint}; installed are {', '.join(self.plugin_ids) or 'none'}.",
                fix="name an installed plugin in the entry, or install the package that declares this one.",
            )
        return self._manager.get_plugin(entry.plugin)

    # ------------------------------------------------------------------ hooks of all plugins

    def recipe_steps(self) -> tuple[RecipeStep, ...]:
        """Return the quantization steps of all plugins, in the order of plugin names."""
        self._load_all()
        steps: list[RecipeStep] = []
        for plugin_id, contributed in self._ask_everyone("zoo_recipe_steps"):
            steps.extend(guarded_step(step, plugin_id) for step in cast("Sequence[RecipeStep]", contributed))
        return tuple(steps)

    def taking_part(self, entry: ModelEntry, step_names: Collection[str]) -> tuple[str, ...]:
        """Return the plugins whose code a run executes: the model's owner, and those that give its task and steps."""
        self._load_all()
        names = {entry.plugin, *(plugin_id for plugin_id, _ in self._ask_everyone("zoo_task", task=entry.task))}
        for plugin_id, steps in self._ask_everyone("zoo_recipe_steps"):
            if any(step.name in step_names for step in cast("Sequence[RecipeStep]", steps)):
                names.add(plugin_id)
        return tuple(sorted(names - {CORE}))

    def task(self, entry: ModelEntry) -> Task:
        """Return the task of a model.

        Raises:
            PluginError: No plugin declares it, or two do.
        """
        task = self.find_task(entry.task)
        if task is None:
            raise PluginError(
                f"{entry.source}: {entry.model_id}.task is {entry.task!r}, a task that no plugin declares; built in "
                f"are {' and '.join(tasks.BUILT_IN)}.",
                fix="correct the name, declare the task with the hook zoo_task (docs/hooks.md), or run "
                "`zoo-eval doctor` to see the plugins that cannot be used.",
            )
        return task

    def find_task(self, task_id: str) -> Task | None:
        """Call ``zoo_task``; None if no plugin declares the task.

        Raises:
            PluginError: Two plugins declare it, or the answer is not this task.
        """
        self._load_all()
        answers = self._ask_everyone("zoo_task", task=task_id)
        if len(answers) > 1:
            owners = " and ".join(repr(plugin_id) for plugin_id, _ in answers)
            raise PluginError(
                f"Task {task_id!r} is declared twice: by the plugins {owners}.",
                fix="uninstall one of the plugins, or give one task another id.",
            )
        for plugin_id, answer in answers:
            declared = getattr(answer, "task_id", type(answer).__name__)
            if declared != task_id:
                raise PluginError(
                    f"Plugin {plugin_id!r} answered zoo_task for {task_id!r} with {declared!r}.",
                    fix="return a Task with that task_id, or None.",
                )
            return cast("Task", answer) if plugin_id == CORE else guarded_task(answer, plugin_id)
        return None

    def runtimes(self) -> Mapping[str, OwnedRuntime]:
        """Return the built-in runtimes and those of all plugins, by name.

        Raises:
            PluginError: A name is claimed twice, is ``torch`` or no file name, or a plugin brings what is no runtime.
        """
        self._load_all()
        found = {one.name: OwnedRuntime(plugin_id=CORE, runtime=one) for one in runtimes.built_in()}
        for plugin_id, contributed in self._ask_everyone("zoo_runtimes"):
            with Naming(plugin_id, "zoo_runtimes"):
                named = [(one.name, one) for one in cast("Sequence[Runtime]", contributed)]
            for name, one in named:
                if not isinstance(name, str) or not _RUNTIME_NAME.fullmatch(name):
                    raise PluginError(
                        f"Plugin {plugin_id!r} calls a runtime {name!r}.",
                        fix="use letters, digits, '.', '_' and '-' only: the name becomes part of file names.",
                    )
                other = CORE if name == runtimes.TORCH else found[name].plugin_id if name in found else None
                if other is not None:
                    raise PluginError(
                        f"The runtime {name!r} is claimed twice: by {other} and by plugin {plugin_id!r}.",
                        fix=f"give the runtime of {plugin_id!r} another name, or uninstall the plugin.",
                    )
                found[name] = OwnedRuntime(plugin_id=plugin_id, runtime=one)
        return found

    def evaluation_finished(
        self, run_dir: Path, record: RunRecord, metrics: MetricsRecord | None
    ) -> tuple[BrokenPlugin, ...]:
        """Notify every plugin of a finished run and return those that failed."""
        self._load_all()
        before = set(self._broken)
        for _ in self._ask_everyone("zoo_evaluation_finished", run_dir=run_dir, record=record, metrics=metrics):
            pass
        return tuple(self._broken[name] for name in sorted(set(self._broken) - before))

    def _ask_everyone(self, hook: str, **arguments: object) -> list[tuple[str, Any]]:
        answers: list[tuple[str, Any]] = []
        for name, plugin in sorted(self._manager.list_name_plugin()):
            others = [other for other in self._manager.get_plugins() if other is not plugin]
            caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
            if not caller.get_hookimpls():
                continue
            try:
                with Naming(name, hook):
                    answers.extend((name, answer) for answer in caller(**arguments))
            except ZooError as error:
                self._break(name, error)
        return answers

    # ------------------------------------------------------------------ loading

    def _load_all(self) -> None:
        for plugin_id in sorted(self._pending):
            self._load(plugin_id)

    def _load(self, plugin_id: str) -> None:
        load = self._pending.pop(plugin_id, None)
        if load is None:
            return
        try:
            plugin = load()
            self._manager.register(plugin, name=plugin_id)
            self._manager.check_pending()
        except (Exception, SystemExit) as error:  # a module may call sys.exit while it is imported
            if self._manager.has_plugin(plugin_id):  # pluggy before 1.7 keeps a plugin that failed its check
                self._manager.unregister(name=plugin_id)
            self._break(plugin_id, error)

    def _break(self, plugin_id: str, error: BaseException) -> None:
        cause = error.fact if isinstance(error, ZooError) else f"{type(error).__name__}: {error}"
        details = "".join(traceback.format_exception(error))
        self._broken[plugin_id] = BrokenPlugin(plugin_id=plugin_id, cause=" ".join(cause.split()), details=details)
