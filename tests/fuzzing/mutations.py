"""Damage to files: what hypothesis may do to a valid one, in its bytes and in its structure.

A file is cut into tokens (XML tags, words, JSON values, pickle opcodes), and an edit drops, repeats, exchanges or
replaces some: most results still get past the first check of a reader, which random bytes never do.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from hypothesis import strategies as st

Edit: TypeAlias = "tuple[str, int, int, bytes]"
Split: TypeAlias = "Callable[[bytes], list[bytes]]"

NASTY = (
    b"", b"0", b"-1", b"1e400", b"-9e999", b"nan", b"Infinity", b"99999999999999999999999", b"1_0", b"0x7f", b"true",
    b"null", b"~", b"[]", b"{}", b"[" * 2000, b'{"a":' * 1500, b'"', b"'", b"\0", b"\xff\xfe", b"\xed\xa0\x80",
    b"\x85", "\u0663".encode(), "\u2028".encode(), b"../../x", b"/etc/passwd", b"&#0;", b"&a;", b"<!--", b"<![CDATA[",
    b"]]>", b"*a", b"&a [*a]", b"!!python/object/apply:os.system [true]", b"<<: *a", b"%YAML 9.9", b"- " * 60, b": ",
    b"\t", b"\n", b"\r", b"x" * 5000,
)  # fmt: skip

_edits = st.lists(
    st.tuples(
        st.sampled_from(["drop", "repeat", "swap", "replace", "insert", "many"]),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
        st.sampled_from(NASTY) | st.binary(max_size=12),
    ),
    min_size=1,
    max_size=3,  # more, and hardly anything gets past a reader's first check
)


def damaged(seeds: Sequence[bytes], split: Split) -> st.SearchStrategy[bytes]:
    """Valid files with edits of their tokens, of their bytes, cut short; and bytes that were never a file."""
    seed = st.sampled_from(seeds)
    tokens = st.builds(lambda data, edits: b"".join(_apply(split(data), edits)), seed, _edits)
    single = st.builds(lambda data, edits: b"".join(_apply([bytes([byte]) for byte in data], edits)), seed, _edits)
    cut = st.builds(lambda data, end: data[: end % (len(data) + 1)], seed, st.integers(0, 100_000))
    return st.one_of(tokens, tokens, single, cut, st.binary(max_size=300))


def _apply(parts: Sequence[bytes], edits: Sequence[Edit]) -> list[bytes]:
    parts = list(parts)
    for kind, first, second, value in edits:
        if not parts:
            return [value]
        a, b = first % len(parts), second % len(parts)
        if kind == "drop":
            del parts[a : a + 1 + second % 3]
        elif kind == "repeat":
            parts[a:a] = parts[a : a + 1 + second % 5] * (1 + second % 3)
        elif kind == "swap":
            parts[a], parts[b] = parts[b], parts[a]
        elif kind == "replace":
            parts[a] = value
        elif kind == "insert":
            parts.insert(a, value)
        else:
            parts[a:a] = [parts[b]] * 200
    return parts


def by_pattern(pattern: bytes) -> Split:
    """Tokens are what ``pattern`` finds, and what lies between."""
    return lambda data: [part for part in re.split(b"(" + pattern + b")", data) if part]


xml_tokens = by_pattern(rb"<[^>]*>|\s+")
yaml_tokens = by_pattern(rb"\n *|- |: |[\[\]{},]")
words = by_pattern(rb"\s")
json_tokens = by_pattern(rb"[\[\]{}:,]|\"[^\"]*\"")


def safetensors_tokens(data: bytes) -> list[bytes]:
    """The header's length, the header's JSON tokens, and the tensors."""
    length = int.from_bytes(data[:8], "little")
    return [data[:8], *json_tokens(data[8 : 8 + length]), data[8 + length :]]


def pickle_tokens(data: bytes) -> list[bytes]:
    """The opcodes of the first pickles in a file, each with its argument, and the rest."""
    parts: list[bytes] = []
    start = 0
    stream = io.BytesIO(data)
    try:
        while True:
            places = [place for _, _, place in pickletools.genops(stream)]
            parts += [data[low:high] for low, high in zip(places, [*places[1:], stream.tell()], strict=True)]
            start = stream.tell()
    except (ValueError, IndexError, UnicodeDecodeError):  # what follows the last pickle are the tensors
        return [*parts, data[start:]]


def with_header(data: bytes, header: bytes) -> bytes:
    """A safetensors file whose length field fits another header."""
    length = int.from_bytes(data[:8], "little")
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def with_entry(data: bytes, name: str, content: bytes) -> bytes:
    """A zip file as torch.save writes it, one entry exchanged, every checksum right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, content if entry.endswith(f"/{name}") else source.read(entry))
    return buffer.getvalue()


def json_edits(value: Any) -> st.SearchStrategy[bytes]:
    """The JSON of a value in which one place, at any depth, holds something else."""
    other: st.SearchStrategy[Any] = st.sampled_from(
        [None, True, False, 0, -1, 10**400, 1e308, "", "x" * 300, "\ud800", "../x", [], {}, [[]], {"a": 1}, [None] * 4]
    )
    places = list(_places(value, ()))
    return st.builds(
        lambda place, new: json.dumps(_replaced(value, place, new)).encode(), st.sampled_from(places), other
    )


def _places(value: Any, place: tuple[Any, ...]) -> Any:
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*place, key))


def _replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = _replaced(value[place[0]], place[1:], new)
    return copy
