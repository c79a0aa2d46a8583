"""The hash of a package follows its content, and nothing else."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zoo_core.runs import sources
from zoo_core.runs.sources import source_sha256

FILES = {"__init__.py": "", "hooks.py": "VALUE = 1\n", "recipes/w8a8.yaml": "schema: 1\n", "inner/__init__.py": ""}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], None]]:
    """Imports a module from a folder or zip file, instead of one of that name imported before."""
    before = set(sys.modules)
    folders: list[str] = []

    def forget() -> None:
        for name in set(sys.modules) - before:
            del sys.modules[name]
        while folders:
            sys.path.remove(folders.pop())

    def import_from(place: Path, module: str) -> None:
        forget()
        folders.append(str(place))
        sys.path.insert(0, str(place))
        importlib.invalidate_caches()
        importlib.import_module(module)

    yield import_from
    forget()


def digest(imported: Callable[[Path, str], None], place: Path, module: str = "sample_zoo.hooks") -> str | None:
    imported(place, module)
    return source_sha256([module])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write(tmp_path / "one" / "sample_zoo", FILES)


def test_the_place_of_a_package_does_not_matter(
    imported: Callable[[Path, str], None], package: Path, tmp_path: Path
) -> None:
    first = digest(imported, package.parent)
    shutil.copytree(package, tmp_path / "elsewhere" / "sample_zoo", ignore=shutil.ignore_patterns("__pycache__"))

    assert first is not None
    assert digest(imported, tmp_path / "elsewhere") == first


def test_a_package_in_a_zip_file_has_the_hash_of_its_files(
    imported: Callable[[Path, str], None], package: Path, tmp_path: Path
) -> None:
    first = digest(imported, package.parent)
    with zipfile.ZipFile(tmp_path / "plugin.zip", "w") as file:
        for name in FILES:
            file.write(package / name, f"sample_zoo/{name}")

    assert digest(imported, tmp_path / "plugin.zip") == first


@pytest.mark.parametrize(
    "change",
    [
        {"hooks.py": "VALUE = 2\n"},
        {"recipes/w8a8.yaml": "schema: 2\n"},
        {"inner/new.py": ""},
        {"data/labels.txt": "cat"},
        {"native.so": "elf"},
        {"sourceless.pyc": "code"},
        {"sub/run.json": "{}", "sub/__init__.py": ""},
    ],
)
def test_a_change_of_any_file_changes_the_hash(
    imported: Callable[[Path, str], None], package: Path, change: dict[str, str]
) -> None:
    first = digest(imported, package.parent)
    write(package, change)

    assert digest(imported, package.parent) != first


@pytest.mark.parametrize(
    "change",
    [
        {"__pycache__/hooks.cpython-399.pyc": "code"},
        {".mypy_cache/x.json": "{}"},
        {".hooks.py.swp": ""},
        {"hooks.py~": ""},
        {"README.md": "How to use it"},
        {"sample_zoo.egg-info/PKG-INFO": ""},
        {"runs/model/2026/run.json": "{}", "runs/model/2026/image_ids.txt": "a"},
    ],
)
def test_what_is_no_source_does_not_count(
    imported: Callable[[Path, str], None], package: Path, change: dict[str, str]
) -> None:
    first = digest(imported, package.parent)
    write(package, change)

    assert digest(imported, package.parent) == first


def test_a_removed_and_a_renamed_file_change_the_hash(imported: Callable[[Path, str], None], package: Path) -> None:
    first = digest(imported, package.parent)
    (package / "recipes" / "w8a8.yaml").rename(package / "recipes" / "w4a8.yaml")
    renamed = digest(imported, package.parent)
    (package / "recipes" / "w4a8.yaml").unlink()

    assert len({first, renamed, digest(imported, package.parent)}) == 3


def test_a_single_module_is_hashed_alone(imported: Callable[[Path, str], None], tmp_path: Path) -> None:
    write(tmp_path, {"sample_zoo.py": "VALUE = 1\n", "other.py": ""})
    first = digest(imported, tmp_path, "sample_zoo")
    write(tmp_path, {"other.py": "VALUE = 3\n"})
    assert digest(imported, tmp_path, "sample_zoo") == first
    write(tmp_path, {"sample_zoo.py": "VALUE = 20\n"})
    assert digest(imported, tmp_path, "sample_zoo") != first


def test_a_package_inside_a_namespace_is_hashed_without_its_neighbours(
    imported: Callable[[Path, str], None], tmp_path: Path
) -> None:
    write(tmp_path / "company" / "zoo", FILES)
    first = digest(imported, tmp_path, "company.zoo.hooks")
    write(tmp_path / "company" / "billing", FILES)
    assert digest(imported, tmp_path, "company.zoo.hooks") == first
    write(tmp_path / "company" / "zoo", {"inner/__init__.py": "X = 1"})
    assert digest(imported, tmp_path, "company.zoo.hooks") != first


def test_a_module_of_a_namespace_package_is_hashed_with_its_folder(
    imported: Callable[[Path, str], None], tmp_path: Path
) -> None:
    write(tmp_path / "sample_zoo", {"hooks.py": "", "decode.py": "VALUE = 1\n"})
    first = digest(imported, tmp_path)
    write(tmp_path / "sample_zoo", {"decode.py": "VALUE = 2\n"})
    assert digest(imported, tmp_path) != first


def test_links_that_go_in_a_circle_fifos_and_unreadable_files_end(
    imported: Callable[[Path, str], None], package: Path
) -> None:
    (package / "circle").symlink_to(package, target_is_directory=True)
    (package / "dangling").symlink_to(package / "nothing")
    os.mkfifo(package / "fifo")

    assert digest(imported, package.parent) is not None


def test_a_linked_folder_counts(imported: Callable[[Path, str], None], package: Path, tmp_path: Path) -> None:
    shared = write(tmp_path / "shared", {"decode.py": "VALUE = 1\n"})
    (package / "linked").symlink_to(shared, target_is_directory=True)
    first = digest(imported, package.parent)
    write(shared, {"decode.py": "VALUE = 2\n"})

    assert digest(imported, package.parent) != first


def test_a_large_file_counts_by_its_size(
    imported: Callable[[Path, str], None], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LARGE_BYTES", 10)
    write(package, {"data.bin": "a" * 11})
    first = digest(imported, package.parent)
    write(package, {"data.bin": "b" * 11})
    assert digest(imported, package.parent) == first
    write(package, {"data.bin": "b" * 12})
    assert digest(imported, package.parent) != first


def test_code_without_a_file_has_no_hash() -> None:
    assert source_sha256(["sys"]) is None
    assert source_sha256(["no_such_module"]) is None
