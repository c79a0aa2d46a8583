from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from toy_detector import data
from toy_detector import hooks as toy_detector
from typed_records import run_record
from zoo_core.cli.main import run_command_line
from zoo_core.conformance.doctor import check_installation
from zoo_core.datatypes import DatasetRequest, ModelEntry, Recipe, RecipeStep
from zoo_core.errors import DataError, PluginCrashError, PluginError, RecipeError, RegistryError
from zoo_core.hookspecs import hookimpl
from zoo_core.plugins import PluginHost
from zoo_core.recipes import SHIPPED_RECIPES, load_recipe
from zoo_core.registry import load_registry
from zoo_core.runs.record import RunRecord

REGISTRY = """schema: 1
models:
  {name}:
    plugin: {plugin}
    task: detection
    description: Another model.
    dataset: {{name: grid, split: test, calibration_split: trainval}}
    recipe: w8a8_toy
    headline: coco
"""

TOY_RECIPE = Path(toy_detector.__file__).parent / "recipes" / "w8a8_toy.yaml"


@pytest.fixture
def plugins() -> PluginHost:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    return host


def registry_file(folder: Path, *, name: str, plugin: str) -> Path:
    path = folder / f"{plugin}.yaml"
    path.write_text(REGISTRY.format(name=name, plugin=plugin))
    return path


def test_a_plugins_registry_file_adds_its_models(plugins: PluginHost) -> None:
    assert plugins.model("toy_squares").plugin == "toy_detector"
    assert "ssd_mobilenetv2_lite" in plugins.catalog()


def test_a_plugins_name_serves_where_it_owns_one_model(plugins: PluginHost) -> None:
    assert plugins.model("toy_detector").model_id == "toy_squares"


def test_an_unknown_model_suggests_the_closest_name(plugins: PluginHost) -> None:
    with pytest.raises(RegistryError, match="'toy_squarez'; the closest is 'toy_squares'"):
        plugins.model("toy_squarez")


def test_load_model_recipe_dataset_and_metric_are_asked_of_the_owner_alone(plugins: PluginHost, tmp_path: Path) -> None:
    class Greedy:
        @hookimpl(tryfirst=True)
        def zoo_load_model(self) -> object:
            raise AssertionError("asked although it owns nothing")

        zoo_recipe = zoo_dataset = zoo_metric = zoo_load_model

    plugins.register(Greedy(), "greedy")
    entry = plugins.model("toy_squares")
    root = data.write(tmp_path)

    dataset = plugins.dataset(entry, DatasetRequest(root=root, split="test"))
    bundle = plugins.load_model(entry, None, dataset.class_names, "cpu")

    assert dataset.class_names == ("red", "green")
    assert bundle.network(bundle.example_input).shape == (1, 2, 4, 4)
    assert plugins.recipe(entry, entry.recipe).name == "w8a8_toy"
    assert plugins.metric(entry, dataset.class_names).protocol_ids[0] == "voc07_11pt/pytorch-ssd"


def test_an_unknown_recipe_passes_the_plugins_own_error_on(plugins: PluginHost) -> None:
    with pytest.raises(RecipeError, match="toy_squares has no recipe 'w2a2'"):
        plugins.recipe(plugins.model("toy_squares"), "w2a2")


# --------------------------------------------------------------------------- defaults, and entries for others' plugins


def entry_of(path: Path, **declared: str) -> ModelEntry:
    """The only model of a registry file that names the plugin ``two_hooks``, with further keys in ``dataset``."""
    keys = "".join(f", {key}: {value}" for key, value in declared.items())
    text = REGISTRY.format(name="declared", plugin="two_hooks").replace("name: grid", f"name: grid{keys}")
    path.write_text(text.replace("w8a8_toy", "w8a8_per_channel"))
    return load_registry(path)["declared"]


class TwoHooks:
    @hookimpl
    def zoo_load_model(self) -> object: ...


def test_an_owner_without_further_hooks_gets_what_its_entry_declares(plugins: PluginHost, tmp_path: Path) -> None:
    plugins.register(TwoHooks(), "two_hooks")
    (tmp_path / "labels.txt").write_text("dog\ncat\nbird\n")
    entry = entry_of(tmp_path / "registry.yaml", layout="voc", label_file="labels.txt")
    folder = tmp_path / "kit"
    folder.mkdir()

    kit = plugins.conformance_kit(entry, folder)
    assert kit is not None
    dataset = plugins.dataset(entry, DatasetRequest(root=kit.root, split="test"))

    assert dataset.class_names == ("dog", "cat", "bird")
    assert dataset.ids == tuple(scene.image_id for scene in kit.scenes["test"])
    assert plugins.metric(entry, dataset.class_names).protocol_ids[0] == "coco"
    assert plugins.recipe(entry, entry.recipe).source.parent == SHIPPED_RECIPES


def test_an_owner_overrides_a_default_and_returns_none_to_keep_it(plugins: PluginHost, tmp_path: Path) -> None:
    class Picky(TwoHooks):
        @hookimpl
        def zoo_recipe(self, name: str) -> Recipe | None:
            return load_recipe(TOY_RECIPE) if name == "own" else None

    plugins.register(Picky(), "two_hooks")
    entry = entry_of(tmp_path / "registry.yaml", layout="voc")

    assert plugins.recipe(entry, "own").name == "w8a8_toy"
    assert plugins.recipe(entry, "w4a8_per_channel").name == "w4a8_per_channel"


def test_what_is_neither_implemented_nor_declared_says_what_to_declare(plugins: PluginHost, tmp_path: Path) -> None:
    plugins.register(TwoHooks(), "two_hooks")
    entry = dataclasses.replace(entry_of(tmp_path / "registry.yaml"), task="pose")

    with pytest.raises(PluginError, match=r"not implement zoo_dataset.*\n.*declare dataset.layout \(voc, coco, ima"):
        plugins.dataset(entry, DatasetRequest(root=tmp_path, split="test"))
    with pytest.raises(PluginError, match=r"not implement zoo_metric.*\n.*declare the task detection or"):
        plugins.metric(entry, ())
    assert plugins.conformance_kit(entry, tmp_path) is None


@pytest.mark.parametrize("layout", ["voc", "coco", "image_folder", "shapes_voc", "shapes_folder"])
def test_every_layout_opens_the_pictures_that_are_drawn_in_it(layout: str, plugins: PluginHost, tmp_path: Path) -> None:
    plugins.register(TwoHooks(), "two_hooks")
    entry = entry_of(tmp_path / "registry.yaml", layout=layout)
    if layout == "shapes_folder":
        splits = dataclasses.replace(entry.dataset, split="val", calibration_split="train")
        entry = dataclasses.replace(entry, dataset=splits)
    folder = tmp_path / "kit"
    folder.mkdir()

    kit = plugins.conformance_kit(entry, folder)

    assert kit is not None
    for split, scenes in kit.scenes.items():
        dataset = plugins.dataset(entry, DatasetRequest(root=kit.root, split=split, label_file=kit.label_file))
        assert sorted(dataset.ids) == sorted(scene.image_id for scene in scenes)
        assert type(dataset.target(scenes[0].image_id)) is type(scenes[0].target)


def test_drawn_shapes_refuse_a_split_that_they_do_not_have(plugins: PluginHost, tmp_path: Path) -> None:
    plugins.register(TwoHooks(), "two_hooks")
    entry = entry_of(tmp_path / "registry.yaml", layout="shapes_folder")

    with pytest.raises(DataError, match=r"The drawn shapes have no split 'test'.\n  fix: name one of val, train"):
        plugins.conformance_kit(entry, tmp_path)


def test_a_layout_without_data_says_what_to_give(plugins: PluginHost, tmp_path: Path) -> None:
    plugins.register(TwoHooks(), "two_hooks")
    entry = entry_of(tmp_path / "registry.yaml", layout="coco")

    with pytest.raises(DataError, match=r"evaluates on 'grid', .*\n.*--data: a folder with annotations/"):
        plugins.dataset(entry, DatasetRequest(root=None, split="test"))


def test_a_registry_file_given_for_one_call_adds_models_of_any_installed_plugin(tmp_path: Path) -> None:
    path = registry_file(tmp_path, name="another_toy", plugin="toy_detector")
    host = PluginHost(installed=False, registries=[path])
    host.register(toy_detector, "toy_detector")

    entry = host.model("another_toy")

    assert entry.source == path
    dataset = host.dataset(entry, DatasetRequest(root=data.write(tmp_path / "grid"), split="test"))
    assert dataset.class_names == ("red", "green")
    assert host.broken == ()


def test_a_plugins_registry_file_may_name_another_plugin_as_owner(plugins: PluginHost, tmp_path: Path) -> None:
    class MoreToys:
        @hookimpl
        def zoo_registry(self) -> Path:
            return registry_file(tmp_path, name="another_toy", plugin="toy_detector")

    plugins.register(MoreToys(), "more_toys")

    bundle = plugins.load_model(plugins.model("another_toy"), None, ("a", "b"), "cpu")

    assert bundle.network(bundle.example_input).shape == (1, 2, 4, 4)
    assert plugins.broken == ()


def test_an_unknown_model_names_the_plugins_whose_registry_was_refused(plugins: PluginHost, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("schema:\nmodels: {}\n")

    class Refused:
        @hookimpl
        def zoo_registry(self) -> Path:
            return tmp_path / "bad.yaml"

    plugins.register(Refused(), "refused_plugin")

    with pytest.raises(RegistryError, match=r"(?s)no model 'wanted'.*plugin 'refused_plugin': .*bad\.yaml.*value null"):
        plugins.model("wanted")


def test_a_wrong_registry_file_given_for_one_call_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("schema: 1\nmodels: {a: {plugn: b}}\n")

    with pytest.raises(RegistryError, match=r"models\.a\.plugn: no such key; write 'plugin'"):
        PluginHost(installed=False, registries=[tmp_path / "r.yaml"]).catalog()


def test_an_owner_that_is_not_installed_suggests_the_closest(tmp_path: Path) -> None:
    host = PluginHost(installed=False, registries=[registry_file(tmp_path, name="a", plugin="toy_detectr")])
    host.register(toy_detector, "toy_detector")

    with pytest.raises(PluginError, match="'toy_detectr', which is not installed; the closest is 'toy_detector'"):
        host.recipe(host.model("a"), "any")


# --------------------------------------------------------------------------- hooks of everybody


def test_recipe_steps_are_gathered_from_everybody(plugins: PluginHost) -> None:
    class Second:
        @hookimpl
        def zoo_recipe_steps(self) -> Sequence[RecipeStep]:
            return []

    plugins.register(Second(), "second")

    assert [step.name for step in plugins.recipe_steps()] == ["round_weights"]


def test_a_plugin_that_fails_while_giving_steps_is_named_and_the_others_give_theirs(plugins: PluginHost) -> None:
    class Stepless:
        @hookimpl
        def zoo_recipe_steps(self) -> Sequence[RecipeStep]:
            raise RuntimeError("no steps today")

    plugins.register(Stepless(), "stepless")

    assert [step.name for step in plugins.recipe_steps()] == ["round_weights"]
    assert [(plugin.plugin_id, plugin.cause) for plugin in plugins.broken] == [
        ("stepless", "Plugin 'stepless' failed in zoo_recipe_steps: RuntimeError: no steps today")
    ]


def test_everybody_is_told_of_a_finished_evaluation_and_a_failure_is_named(plugins: PluginHost, tmp_path: Path) -> None:
    class Tracker:
        @hookimpl
        def zoo_evaluation_finished(self, run_dir: Path, record: RunRecord) -> None:
            raise ConnectionError("no server")

    plugins.register(Tracker(), "a_tracker")

    failed = plugins.evaluation_finished(tmp_path, run_record(), None)

    assert (tmp_path / "toy_was_told.json").exists()
    assert [(plugin.plugin_id, plugin.cause) for plugin in failed] == [
        ("a_tracker", "Plugin 'a_tracker' failed in zoo_evaluation_finished: ConnectionError: no server")
    ]


def test_a_plugin_that_fails_to_import_stops_nobody_else(plugins: PluginHost) -> None:
    def explode() -> object:
        raise ImportError("no module named 'tensorflow'")

    plugins._add("explodes_on_import", explode)

    assert plugins.model("toy_squares").plugin == "toy_detector"
    assert [broken.plugin_id for broken in plugins.broken] == ["explodes_on_import"]
    assert "no module named 'tensorflow'" in plugins.broken[0].cause


def test_a_misspelt_hook_is_named_and_stops_nobody_else(plugins: PluginHost) -> None:
    class Misspelt:
        @hookimpl
        def zoo_model(self) -> None: ...

    plugins.register(Misspelt(), "misspelt")

    assert plugins.model("toy_squares").plugin == "toy_detector"
    assert "unknown hook 'zoo_model'" in plugins.broken[0].cause


def test_an_unknown_hook_argument_is_named(plugins: PluginHost) -> None:
    class Wrong:
        @hookimpl
        def zoo_metric(self, entry: object, threshold: float) -> None: ...

    plugins.register(Wrong(), "wrong")

    assert [broken.plugin_id for broken in plugins.broken] == ["wrong"]
    assert "threshold" in plugins.broken[0].cause


def test_a_model_claimed_twice_is_an_error_that_names_both(plugins: PluginHost, tmp_path: Path) -> None:
    class Rival:
        @hookimpl
        def zoo_registry(self) -> Path:
            return registry_file(tmp_path, name="toy_squares", plugin="x_rival")

    plugins.register(Rival(), "x_rival")

    with pytest.raises(PluginError, match=r"'toy_squares' is claimed twice: by .*registry\.yaml and .*x_rival\.yaml"):
        plugins.model("toy_squares")
    assert "ssd_mobilenetv2_lite" in plugins.catalog()


def test_a_registry_file_that_is_wrong_breaks_its_plugin_alone(plugins: PluginHost, tmp_path: Path) -> None:
    class Careless:
        @hookimpl
        def zoo_registry(self) -> Path:
            path = tmp_path / "careless.yaml"
            path.write_text("schema: 1\nmodels: {a: {plugn: careless}}\n")
            return path

    plugins.register(Careless(), "careless")

    assert plugins.model("toy_squares").plugin == "toy_detector"
    assert [broken.plugin_id for broken in plugins.broken] == ["careless"]


def test_a_model_whose_plugin_is_not_installed_names_the_plugin(tmp_path: Path) -> None:
    class Stranger:
        @hookimpl
        def zoo_registry(self) -> Path:
            return registry_file(tmp_path, name="lonely", plugin="stranger")

    host = PluginHost(installed=False)
    host.register(Stranger(), "stranger")
    entry = host.model("lonely")

    with pytest.raises(PluginError, match="'stranger' does not implement zoo_load_model"):
        host.load_model(entry, None, (), "cpu")
    with pytest.raises(PluginError, match="belongs to plugin 'stranger', which is not installed; installed are none"):
        PluginHost(installed=False).recipe(entry, "any")


def test_an_exception_inside_a_hook_names_plugin_and_hook(plugins: PluginHost, tmp_path: Path) -> None:
    class Buggy:
        @hookimpl
        def zoo_registry(self) -> Path:
            return registry_file(tmp_path, name="buggy_model", plugin="buggy")

        @hookimpl
        def zoo_recipe(self) -> object:
            raise KeyError("recipes")

    plugins.register(Buggy(), "buggy")

    with pytest.raises(PluginCrashError, match="'buggy' failed in zoo_recipe: KeyError: 'recipes'"):
        plugins.recipe(plugins.model("buggy_model"), "any")
    assert PluginCrashError.exit_code == 3  # a fault of the plugin, not of the user


def test_a_hook_that_returns_nothing_is_an_error(plugins: PluginHost, tmp_path: Path) -> None:
    class Silent:
        @hookimpl
        def zoo_registry(self) -> Path:
            return registry_file(tmp_path, name="silent_model", plugin="silent")

        @hookimpl
        def zoo_load_model(self) -> None: ...

    plugins.register(Silent(), "silent")

    with pytest.raises(PluginError, match="'silent' returned nothing from zoo_load_model"):
        plugins.load_model(plugins.model("silent_model"), None, (), "cpu")


def test_a_plugin_name_declared_twice_is_reported(plugins: PluginHost) -> None:
    plugins.register(object(), "toy_detector")

    assert "declared twice" in plugins.broken[0].cause
    assert plugins.model("toy_squares").plugin == "toy_detector"


def test_bundled_plugins_are_found_through_the_entry_points_that_outsiders_use() -> None:
    host = PluginHost()

    assert "ssd_mobilenetv2_lite" in host.plugin_ids
    assert host.broken == ()


# --------------------------------------------------------------------------- installed plugins


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Makes a package as an environment would hold it, module and metadata with its entry point; returns its folder."""
    before = set(sys.modules)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(name: str, hooks: str) -> Path:
        (site / name).mkdir()
        (site / name / "__init__.py").touch()
        (site / name / "hooks.py").write_text(hooks)
        metadata = site / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[zoo_eval]\n{name} = {name}.hooks\n")
        return site / name

    yield make
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "faulty_guest":
            del sys.modules[name]


def test_a_package_that_takes_the_name_of_a_bundled_plugin_does_not_replace_it(
    install: Callable[[str, str], Path],
) -> None:
    folder = install("faulty_guest", "raise SystemExit('loaded')\n")
    points = folder.parent / "faulty_guest-1.0.dist-info" / "entry_points.txt"
    points.write_text("[zoo_eval]\nssd_mobilenetv2_lite = faulty_guest.hooks\n")
    host = PluginHost()
    assert host.model("ssd_mobilenetv2_lite").plugin == "ssd_mobilenetv2_lite"
    (broken,) = host.broken
    assert broken.plugin_id == "ssd_mobilenetv2_lite of faulty_guest"
    assert "The package faulty_guest declares the plugin name 'ssd_mobilenetv2_lite'" in broken.cause
    assert [check.ok for check in check_installation(host) if check.name == "plugin ssd_mobilenetv2_lite"] == [True]


@pytest.mark.parametrize(
    ("hooks", "cause"),
    [
        ("import tensorflow_of_old\n", "ModuleNotFoundError: No module named 'tensorflow_of_old'"),
        ("import sys\nsys.exit('not on this machine')\n", "SystemExit: not on this machine"),
        ("def broken(:\n", "SyntaxError"),
        (
            "from zoo_core import hookimpl\n\n@hookimpl\ndef zoo_metric(entry, threshold): ...\n",
            "zoo_metric.*threshold",
        ),
        ("from zoo_core import hookimpl\n\n@hookimpl\ndef zoo_metrics(entry): ...\n", "unknown hook 'zoo_metrics'"),
        (
            "from zoo_core import hookimpl\nfrom pathlib import Path\n\n@hookimpl\ndef zoo_registry():\n"
            "    return Path(__file__).with_name('registry.yaml')\n",
            "Model 'ssd_mobilenetv2_lite' is claimed twice: by .*registry.yaml and .*registry.yaml",
        ),
        (
            "from zoo_core.datatypes import NoSuchName\n",
            "ImportError: cannot import name 'NoSuchName'",
        ),
    ],
)
def test_doctor_and_list_name_an_installed_plugin_that_cannot_be_used(
    hooks: str, cause: str, install: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = install("faulty_guest", hooks)
    (folder / "registry.yaml").write_text(REGISTRY.format(name="ssd_mobilenetv2_lite", plugin="faulty_guest"))

    assert run_command_line(["list", "--broken"]) == 0
    listed = capsys.readouterr().out
    assert re.search(f"^faulty_guest: .*({cause})", listed, flags=re.MULTILINE), listed
    assert listed.count("\n") == 1  # nobody else
    assert run_command_line(["doctor"]) == 2
    assert re.search(f"^FAIL  plugin faulty_guest: .*({cause})", capsys.readouterr().out, flags=re.MULTILINE)
    assert run_command_line(["show", "ssd_mobilenetv2_lite_shapes"]) == 0
