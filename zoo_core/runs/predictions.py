"""Prediction store: one Parquet file per chunk of images, written completely and then renamed into place.

A file has one row per image: ``image_id``, then one list column per field of the prediction class, so any tool that
reads Parquet can read it. A chunk with images for which the network returned infinity or not-a-number also has the
column ``outputs.finite``. A field whose arrays are all ``(N,)``, or all ``(N, K)`` with the same K, is stored as lists
of N values or rows; any other field is flattened, and ``<field>.shape`` gives the shape for each image. A chunk that
exists is complete; writing one again replaces it with the same content. Pages have checksums, so bits that flipped on
the disk are detected when the file is read. The file's metadata holds the stage's binding (``runs.binding``), which
chunks of other stages and runs do not have.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import PluginError, RunError, ZooError
from zoo_core.files import replace_file

if TYPE_CHECKING:
    import pyarrow as pa

    from zoo_core.datatypes import Prediction

_IDS = "image_id"
_FINITE = "outputs.finite"  # false where the network returned infinity or not-a-number; left out of ordinary chunks
_BINDING = b"zoo_eval.binding"  # metadata of the file; left out where the store has no binding
_SHAPE = ".shape"  # no field is called so, since a field is a Python name
_MAX_VALUES = 2**31 - 1  # the lists of a column have offsets of 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Predictions of consecutive images.

    Attributes:
        index: Position of the chunk in the run.
        image_ids: In the order of the run.
        predictions: One per id.
        nonfinite_ids: Images for which the network returned infinity or not-a-number, in the order of the run.
    """

    index: int
    image_ids: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    nonfinite_ids: tuple[str, ...] = ()


class PredictionStore:
    """Stored predictions of one stage.

    Args:
        directory: Created if missing.
        prediction_type: The class whose fields become the columns.
        binding: Digest that every chunk of the stage contains; None writes chunks without one. Reading chunks with
            ``for`` does not compare it, ``missing`` and ``strangers`` do.
    """

    def __init__(self, directory: Path, prediction_type: type[Prediction], *, binding: str | None = None) -> None:
        self.directory = directory
        self._type = prediction_type
        self._binding = binding
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, index: int) -> Path:
        """Return the file of a chunk."""
        return self.directory / f"chunk-{index:05d}.parquet"

    def write(self, chunk: Chunk) -> Path:
        """Write a chunk atomically and return its path.

        Raises:
            RunError: It cannot be written, for example because the disk is full.
            PluginError: A field is not a numpy array of plain numbers, or its images have different dtypes.
        """
        target = self.path(chunk.index)
        try:
            replace_file(target, _to_bytes(chunk, self._binding), partial=target.with_suffix(".partial"))
        except OSError as error:
            raise RunError(
                f"{target} cannot be written: {error}", fix="make room, or make the directory writable again."
            ) from error
        return target

    def clear(self) -> None:
        """Remove every chunk."""
        for path in self.directory.glob("chunk-*"):
            path.unlink()

    def missing(self, chunks: Sequence[Sequence[str]]) -> list[int]:
        """Read every file and return the chunks that are missing.

        Removes files that are damaged, contain other images than their chunk, have another binding or belong to no
        chunk, and remains of interrupted writes. All remaining files can be scored.

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
            # Checksums cover only values; writing the content again and comparing bytes covers everything else.
            return chunk.image_ids == tuple(image_ids) and _to_bytes(chunk, self._binding) == path.read_bytes()
        except (ZooError, OSError):
            return False

    def strangers(self) -> list[Path]:
        """Return the files whose binding is not that of the store, or that have none; damaged ones are among them."""
        return [path for path in sorted(self.directory.glob("chunk-*.parquet")) if _binding_of(path) != self._binding]

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks in order, one in memory at a time.

        Raises:
            RunError: A file is damaged or contains another kind of prediction.
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


class PredictionsById(Mapping[str, "Prediction"]):
    """Predictions of a stage by image id, one chunk in memory; in the order of the run each file is read once.

    Args:
        store: Complete.
    """

    def __init__(self, store: PredictionStore) -> None:
        self._store = store
        self._remaining = iter(store)
        self._chunk: dict[str, Prediction] = {}

    def __getitem__(self, image_id: str) -> Prediction:
        """Look into the chunks that follow, then into all from the first on."""
        if image_id not in self._chunk and not self._found(image_id):
            self._remaining = iter(self._store)
            if not self._found(image_id):
                raise KeyError(image_id)
        return self._chunk[image_id]

    def __iter__(self) -> Iterator[str]:
        """Yield the ids in the order of the run."""
        return (image_id for chunk in self._store for image_id in chunk.image_ids)

    def __len__(self) -> int:
        """Count the images."""
        return sum(len(chunk.image_ids) for chunk in self._store)

    def _found(self, image_id: str) -> bool:
        for chunk in self._remaining:
            if image_id in chunk.image_ids:
                self._chunk = dict(zip(chunk.image_ids, chunk.predictions, strict=True))
                return True
        return False


def _binding_of(path: Path) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        value = (pq.read_schema(path).metadata or {}).get(_BINDING)
    except (pa.ArrowException, OSError, ValueError):
        return None
    return None if value is None else value.decode(errors="replace")


def _to_bytes(chunk: Chunk, binding: str | None) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    table = _to_table(chunk)
    if binding is not None:
        table = table.replace_schema_metadata({_BINDING: binding.encode()})
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def _to_table(chunk: Chunk) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {_IDS: pa.array(chunk.image_ids, pa.string())}
    per_image: Sequence[dict[str, Any]] = [prediction.arrays() for prediction in chunk.predictions]
    for name in per_image[0] if per_image else ():
        arrays = [arrays[name] for arrays in per_image]
        _check_storable(name, arrays, chunk.image_ids)
        columns |= _columns(name, arrays)
    if chunk.nonfinite_ids:
        nonfinite = frozenset(chunk.nonfinite_ids)
        columns[_FINITE] = pa.array([image_id not in nonfinite for image_id in chunk.image_ids], pa.bool_())
    return pa.table(columns)


def _check_storable(name: str, arrays: Sequence[Any], image_ids: Sequence[str]) -> None:
    """Refuse a field that cannot be read back exactly."""
    import numpy as np

    num_values = 0
    for array, image_id in zip(arrays, image_ids, strict=True):
        if not isinstance(array, np.ndarray | np.generic):
            found, problem = type(array).__name__, "it is not a numpy array"
        elif isinstance(array, np.ma.MaskedArray):
            found, problem = "masked array", "its mask would be lost"
        else:
            num_values += array.size
            found, problem = f"{array.dtype} array of shape {array.shape}", ""
            if name == _IDS:
                problem = "the name is taken by the ids of the images"
            elif array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or not array.dtype.isnative:
                problem = "its values are not plain booleans, integers or floats of at most 64 bits"
            elif array.dtype != arrays[0].dtype:
                problem = f"image {image_ids[0]!r} has {arrays[0].dtype}, and a field has one dtype"
            elif num_values > _MAX_VALUES:
                problem = f"together with the images before it, it has more than {_MAX_VALUES} values"
        if problem:
            raise PluginError(
                f"The field {name!r} of image {image_id!r} ({found}) cannot be stored: {problem}.",
                fix="let decode return numpy arrays of one dtype per field, the empty ones included.",
            )


def _columns(name: str, arrays: Sequence[Any]) -> dict[str, Any]:
    """Return the columns of one field: the values of each image, and their shapes if the values do not imply them."""
    import numpy as np
    import pyarrow as pa

    shapes = [array.shape for array in arrays]
    ends = {shape[1:] for shape in shapes}
    flat = np.concatenate([array.reshape(-1) for array in arrays])
    values, width = pa.array(flat), 1
    if () not in shapes and ends == {()}:
        counts = [len(array) for array in arrays]
    elif len(ends) == 1 and len(shapes[0]) == 2 and shapes[0][1]:
        width = shapes[0][1]
        counts = [len(array) for array in arrays]
        values = pa.FixedSizeListArray.from_arrays(values, width)
    else:
        column = _lists([array.size for array in arrays], values)
        sides = pa.array([side for shape in shapes for side in shape], pa.int64())
        return {name: column, name + _SHAPE: _lists([len(shape) for shape in shapes], sides)}
    return {name: _lists(counts, values)}


def _lists(counts: Sequence[int], values: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), values)


def _from_table(index: int, table: pa.Table, prediction_type: type[Prediction]) -> Chunk:
    image_ids = tuple(table.column(_IDS).to_pylist())
    nonfinite_ids: tuple[str, ...] = ()
    if _FINITE in table.column_names:
        finite = table.column(_FINITE).to_pylist()
        nonfinite_ids = tuple(image_id for image_id, is_finite in zip(image_ids, finite, strict=True) if not is_finite)
        table = table.drop_columns([_FINITE])
    rows = {name: _split(table.column(name).chunk(0)) for name in table.column_names[1:]} if image_ids else {}
    fields = {name: values for name, values in rows.items() if not name.endswith(_SHAPE)}
    for name in rows.keys() - fields.keys():
        field = name.removesuffix(_SHAPE)
        fields[field] = [array.reshape(shape.tolist()) for array, shape in zip(fields[field], rows[name], strict=True)]
    predictions = tuple(
        prediction_type(**{name: values[row] for name, values in fields.items()}) for row in range(len(image_ids))
    )
    return Chunk(index=index, image_ids=image_ids, predictions=predictions, nonfinite_ids=nonfinite_ids)


def _split(column: Any) -> list[Any]:
    """Return the rows of a list column as numpy arrays, ``(N,)`` or ``(N, K)``."""
    import numpy as np
    import pyarrow as pa

    values = column.values
    width = values.type.list_size if pa.types.is_fixed_size_list(values.type) else 0
    flat = (values.values if width else values).to_numpy(zero_copy_only=False)
    if width:
        flat = flat.reshape(-1, width)
    offsets = np.asarray(column.offsets)
    return [flat[start:end] for start, end in itertools.pairwise(offsets)]
