"""Reads and writes weights without ever executing code from the file."""

from __future__ import annotations

import json
import re
import stat
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo_core.artifacts.cache import sha256_of
from zoo_core.datatypes import Checkpoint
from zoo_core.errors import CheckpointError
from zoo_core.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

    import torch

MAX_CHECKPOINT_BYTES = 16 << 30
"""Four billion float32 weights, far more than a vision model has; a larger file would be hashed for minutes first."""

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_CONVERT = (
    "open it only in a disposable environment, save `model.state_dict()` there with "
    "safetensors.torch.save_file, and give that file."
)
_RESTORE = "give a complete file written by torch.save or safetensors."


def local_checkpoint(path: Path, optimized: bool = False) -> Checkpoint:
    """Return the user's own weights file with its hash; the weights are not loaded yet.

    Args:
        path: The file.
        optimized: See ``Checkpoint``.

    Raises:
        CheckpointError: There is no such file, or it is not a regular file of 1 to ``MAX_CHECKPOINT_BYTES`` bytes.
    """
    _check_is_file(path)
    return Checkpoint(path=path, sha256=sha256_of(path), optimized=optimized)


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a weights file by name, on the CPU, detached, in the file's data types.

    Reads safetensors, and what ``torch.save`` wrote as far as ``weights_only`` allows; the content decides, not the
    name. A state dict inside ``{"state_dict": ...}``, ``{"model_state_dict": ...}`` or ``{"model": ...}`` is unwrapped.
    The versions of modules that ``torch.save`` stored with a state dict are kept for ``Module.load_state_dict``.

    Raises:
        CheckpointError: The file is missing, truncated or not a checkpoint; it is a pickle that could execute code
            (none of it is executed); or a value in it is not a plain tensor.
    """
    _check_is_file(path)
    content = _load_safetensors(path) if _is_safetensors(path) else _load_pickle(path)
    state = _unwrap(content)
    return _with_versions(_plain_tensors(state, path), getattr(state, "_metadata", None))


def cast_state_dict(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], where: object
) -> dict[str, torch.Tensor]:
    """Return the tensors in the data types that a network has, for its ``load_state_dict``; versions are kept.

    Args:
        state: As ``load_state_dict`` returns it. A name that ``own`` lacks keeps its type.
        own: The network's ``state_dict()``.
        where: The file, for the message.

    Raises:
        CheckpointError: A tensor is of another kind than the network's: integer for float, or complex.
    """
    wrong = [
        f"{name} is {tensor.dtype}, not {own[name].dtype}"
        for name, tensor in state.items()
        if name in own and _kind(tensor) != _kind(own[name])
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{where} holds values of another kind than the network: {'; '.join(wrong[:3])}{more}.",
            fix="give float weights; integers of a quantized network mean nothing without their scales.",
        )
    cast = {name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in state.items()}
    return _with_versions(cast, getattr(state, "_metadata", None))


def _kind(tensor: torch.Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _with_versions(tensors: Mapping[str, torch.Tensor], metadata: object) -> dict[str, torch.Tensor]:
    """Attach what ``Module.state_dict`` notes for each module, where torch looks for it; anything else is dropped."""
    state = OrderedDict(tensors)
    if isinstance(metadata, Mapping):
        versions = {
            name: {"version": entry["version"]}
            for name, entry in metadata.items()
            if isinstance(name, str) and isinstance(entry, Mapping) and isinstance(entry.get("version"), int)
        }
        setattr(state, "_metadata", OrderedDict(versions))  # noqa: B010  # no type declares it
    return state


def load_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, all text; ``{}`` for any other checkpoint.

    Raises:
        CheckpointError: The file is missing, or a damaged safetensors file.
    """
    _check_is_file(path)
    if not _is_safetensors(path):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _no_checkpoint(path, error) from error


def save_state_dict(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as a safetensors file, atomically; the same content gives the same bytes.

    Args:
        path: Replaced if it exists.
        tensors: On any device; tensors may share memory, which is not preserved.
        metadata: Stored in the file's header.

    Raises:
        CheckpointError: The file cannot be written.
    """
    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, dict(metadata))
    try:
        replace_file(path, _with_sorted_metadata(data))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}.", fix="check free space and rights.") from error


def _with_sorted_metadata(data: bytes) -> bytes:
    # safetensors 0.8 writes metadata in the random order of a hash map.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _check_is_file(path: Path) -> None:
    """Refuse what cannot be weights before it is read: a pipe would block, a device never ends."""
    try:
        status = path.stat()
    except FileNotFoundError:
        problem = "does not exist"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    else:
        if stat.S_ISDIR(status.st_mode):
            problem = "is a directory, not a weights file"
        elif not stat.S_ISREG(status.st_mode):
            problem = "is not a regular file"
        elif not 0 < status.st_size <= MAX_CHECKPOINT_BYTES:
            problem = f"has {status.st_size} bytes; weights have 1 to {MAX_CHECKPOINT_BYTES}"
        else:
            return
    raise CheckpointError(f"{path} {problem}.", fix="give the path of a checkpoint.")


def _is_safetensors(path: Path) -> bool:
    """Return True if the file starts like safetensors: the header's length in eight bytes, then its opening brace."""
    start = _start(path, 9)
    # The format limits the header to 100 MB, so the upper half of its length is 0.
    return len(start) == 9 and start[4:] == b"\0\0\0\0{"


def _start(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", fix="check the right to read it.") from error


def _load_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _no_checkpoint(path, error) from error


def _load_pickle(path: Path) -> object:
    import pickle

    import torch

    _check_zip(path)
    try:
        # Opened here: torch 2.15 treats any path ending in .safetensors as safetensors, and its error misleads.
        with path.open("rb") as file, warnings.catch_warnings():
            # About old pickle protocols and TorchScript; both end in an error or a plain state dict, checked below.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        call = re.search(r"GLOBAL ([\w.]+)", str(error))
        needs = f"it calls {call[1]}" if call else "it holds more than plain tensors"
        raise CheckpointError(
            f"{path} is a pickle that could execute code when loaded ({needs}); it was refused and nothing was run.",
            fix=_CONVERT,
        ) from error
    except Exception as error:
        # On arbitrary bytes the unpickler can raise almost anything, including MemoryError.
        raise _no_checkpoint(path, error) from error


def _check_zip(path: Path) -> None:
    """Refuse TorchScript programs, and archives that unpack to far more than their size."""
    if _start(path, 4) != b"PK\x03\x04":  # the signature that torch.load checks
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, OverflowError, NotImplementedError) as error:
        raise _no_checkpoint(path, error) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint.", fix=_CONVERT)
    size = path.stat().st_size
    unpacked = sum(entry.file_size for entry in entries)
    # torch.save does not compress its entries; compressing weights afterwards does not halve them.
    if unpacked > 2 * size + (1 << 20):
        raise CheckpointError(
            f"{path} has {size} bytes but declares {unpacked} unpacked; it was refused.", fix=_RESTORE
        )


def _unwrap(content: object) -> object:
    for _ in range(len(_WRAPPERS)):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _plain_tensors(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict.", fix=_RESTORE)
    if not content:
        raise CheckpointError(f"{path} holds an empty state dict.", fix=_RESTORE)
    problems = []
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str):
            problems.append(f"the key {name!r} is not text"[:100])
        elif not isinstance(value, torch.Tensor):
            problems.append(f"{name[:100]!r} is a {type(value).__name__}, not a tensor")
        elif problem := _tensor_problem(value):
            problems.append(f"{name[:100]!r} {problem}")
        else:
            tensors[name] = value.detach()
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} is not a plain state dict: {'; '.join(problems[:3])}{more}.",
            fix="save only `model.state_dict()` and give that file.",
        )
    return tensors


def _tensor_problem(tensor: torch.Tensor) -> str | None:
    import torch

    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        return f"is not a plain tensor ({tensor.device.type}, {tensor.layout}, {tensor.dtype})"
    # With a stride of 0 a few bytes can claim to be terabytes, which the first copy would try to allocate.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"has the shape {tuple(tensor.shape)} but too few bytes for it"
    return None


def _no_checkpoint(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return CheckpointError(
        f"{path} is not a checkpoint, or is truncated or damaged ({type(error).__name__}: {reason}).", fix=_RESTORE
    )
