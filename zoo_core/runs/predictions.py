"""The prediction store: one Parquet file per chunk of images, written whole and renamed into place.

A file has one row per image: ``image_id``, then one list column per field of the prediction class, so any tool that
reads Parquet can read it. A chunk that exists is complete; writing one again replaces it with the same content. Pages
carry checksums, so a bit that flipped on the disk is found when the file is read.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import RunError, ZooError
from zoo_core.files import replace_file

if TYPE_CHECKING:
    import pyarrow as pa

    from zoo_core.datatypes import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Predictions of consecutive images.

    Attributes:
        index: Position of the chunk in the run.
        image_ids: In the order of the run.
        predictions: One per id.
    """

    index: int
    image_ids: tuple[str, ...]
    predictions: tuple[Prediction, ...]


class PredictionStore:
    """The chunks of one stage.

    Args:
        directory: Created when missing.
        prediction_type: The class whose fields are the columns.
    """

    def __init__(self, directory: Path, prediction_type: type[Prediction]) -> None:
        self.directory = directory
        self._type = prediction_type
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, index: int) -> Path:
        """File of one chunk."""
        return self.directory / f"chunk-{index:05d}.parquet"

    def write(self, chunk: Chunk) -> Path:
        """Write a chunk atomically and return its path.

        Raises:
            RunError: It cannot be written, for example because the disk is full.
        """
        target = self.path(chunk.index)
        try:
            replace_file(target, _to_bytes(chunk), partial=target.with_suffix(".partial"))
        except OSError as error:
            raise RunError(
                f"{target} cannot be written: {error}", fix="make room, or make the directory writable again."
            ) from error
        return target

    @staticmethod
    def columns(directory: Path) -> frozenset[str]:
        """Fields of the predictions that lie in a directory; empty where there is no readable chunk."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = next(iter(sorted(directory.glob("chunk-*.parquet"))), None)
        try:
            return frozenset(pq.read_schema(path).names if path is not None else ()) - {"image_id"}
        except (pa.ArrowException, OSError):
            return frozenset()

    def clear(self) -> None:
        """Remove every chunk."""
        for path in self.directory.glob("chunk-*"):
            path.unlink()

    def missing(self, chunks: Sequence[Sequence[str]]) -> list[int]:
        """Which chunks still have to be made, after reading every file there is.

        A file that is damaged, holds other images than its chunk or belongs to no chunk is removed, and so is what an
        interrupted write left: what stays can be scored.

        Args:
            chunks: The ids of each chunk, in the order of the run.

        Returns:
            Indices into ``chunks``, ascending.
        """
        whole = set()
        indices = {self.path(index): index for index in range(len(chunks))}
        for path in sorted(self.directory.glob("chunk-*")):
            index = indices.get(path)
            if index is not None and self._holds(index, chunks[index]):
                whole.add(index)
            else:
                path.unlink()
        return [index for index in range(len(chunks)) if index not in whole]

    def _holds(self, index: int, image_ids: Sequence[str]) -> bool:
        path = self.path(index)
        try:
            chunk = self._read(index, path)
            # Checksums cover values alone: what was read, written again, tells of every other bit.
            return chunk.image_ids == tuple(image_ids) and _to_bytes(chunk) == path.read_bytes()
        except (ZooError, OSError):
            return False

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks in order, one in memory at a time.

        Raises:
            RunError: A file is damaged or does not hold this kind of prediction.
        """
        for index, path in enumerate(sorted(self.directory.glob("chunk-*.parquet"))):
            yield self._read(index, path)

    def _read(self, index: int, path: Path) -> Chunk:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path, partitioning=None, page_checksum_verification=True).combine_chunks()
            return _from_table(index, table, self._type)
        except (
            pa.ArrowException,
            OSError,
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
            ZooError,
        ) as error:
            # A damaged schema gives columns of other shapes, which the prediction's own class refuses.
            fact = error.fact if isinstance(error, ZooError) else error
            raise RunError(
                f"{path} cannot be read as predictions: {fact}",
                fix="delete the file and resume the run, or run the evaluation again.",
            ) from error


def _to_bytes(chunk: Chunk) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(_to_table(chunk), file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def _to_table(chunk: Chunk) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    columns: dict[str, Any] = {"image_id": pa.array(chunk.image_ids, pa.string())}
    per_image: Sequence[dict[str, Any]] = [prediction.arrays() for prediction in chunk.predictions]
    for name in per_image[0] if per_image else ():
        arrays = [arrays[name] for arrays in per_image]
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
        flat = np.concatenate(arrays)
        values = pa.array(flat.reshape(-1))
        if flat.ndim == 2:
            values = pa.FixedSizeListArray.from_arrays(values, flat.shape[1])
        columns[name] = pa.ListArray.from_arrays(offsets, values)
    return pa.table(columns)


def _from_table(index: int, table: pa.Table, prediction_type: type[Prediction]) -> Chunk:
    image_ids = tuple(table.column("image_id").to_pylist())
    fields: dict[str, list[Any]] = {}
    for name in table.column_names[1:]:
        column = table.column(name).chunk(0) if len(image_ids) else None
        fields[name] = _split(column) if column is not None else []
    predictions = tuple(
        prediction_type(**{name: values[row] for name, values in fields.items()}) for row in range(len(image_ids))
    )
    return Chunk(index=index, image_ids=image_ids, predictions=predictions)


def _split(column: Any) -> list[Any]:
    """The rows of a list column as numpy arrays, ``(N,)`` or ``(N, K)``."""
    import numpy as np
    import pyarrow as pa

    values = column.values
    width = values.type.list_size if pa.types.is_fixed_size_list(values.type) else 0
    flat = (values.values if width else values).to_numpy(zero_copy_only=False)
    if width:
        flat = flat.reshape(-1, width)
    offsets = np.asarray(column.offsets)
    return [flat[start:end] for start, end in itertools.pairwise(offsets)]
