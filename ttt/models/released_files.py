"""Reading the authors' checkpoints from safetensors, torch state files, and flax msgpack. Nothing is unpickled.

A flax checkpoint is read in both forms that the authors' JAX code reads: one message with a tree of arrays, or a stream
of pairs (path of the array, message with the array), which their ``StreamingCheckpointer`` writes.
"""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ttt.config.errors import UserError, bad_value, first_line
from ttt.models.released_jax import from_jax

PATTERNS: dict[str, tuple[str, ...]] = {
    "safetensors": ("*.safetensors",),
    "torch": ("*.bin", "*.pt", "*.pth"),
    "flax": ("streaming_params*", "streaming_train_state*", "*.msgpack"),
}
"""Kind of file -> names of files of weights in a folder; the first kind that is there is read."""

ARRAY, SCALAR = 1, 3
"""Types that flax gives to its extensions of msgpack."""

CHUNKED = "__msgpack_chunked_array__"
"""Mark of an array of over 1 GiB, which flax writes in parts."""

DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
"""Name of a dtype in flax's files -> dtype."""

Tree = dict[str, Any]


@dataclass(frozen=True)
class ReleasedWeights:
    """Weights under the names and in the shapes of the authors' PyTorch model.

    Attributes:
        state: parameter name -> tensor.
        files: the files that were read.
        layout: ``safetensors``, ``torch`` or ``flax``.
        step: optimizer steps, if a file says so.
    """

    state: dict[str, Tensor]
    files: list[Path]
    layout: str
    step: int | None = None


def read_released(path: Path) -> ReleasedWeights:
    """Return the weights in a file or in the files of a folder.

    Raises:
        UserError: there are no weights or several checkpoints, or a file is damaged, of another layout, or holds
            pickled objects.
    """
    layout, files = _files(path)
    if layout == "flax":
        return _from_flax(files[0])
    state: dict[str, Tensor] = {}
    for file in files:
        read = _read_safetensors(file) if layout == "safetensors" else _read_torch(file)
        if doubled := sorted(state.keys() & read.keys()):
            raise bad_value("from", path, f"{doubled[0]} is in several files; name the one to read")
        state |= read
    if not any(name.startswith("model.layers.") for name in state):
        found = f"its first parameter is {min(state)}" if state else "it has no parameters"
        raise bad_value("from", path, f"has not the layout of the authors' models ({found}); see docs/released.md")
    return ReleasedWeights(state, files, layout)


def _files(path: Path) -> tuple[str, list[Path]]:
    """Return the kind of the files of weights, and these files."""
    if path.is_file():
        return _kind(path), [path]
    for kind, patterns in PATTERNS.items():
        found = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
        if len(found) > 1 and kind == "flax":
            names = ", ".join(file.name for file in found)
            raise bad_value("from", path, f"contains several checkpoints ({names}); name one of these files")
        if found:
            return kind, found
    known = ", ".join(pattern for patterns in PATTERNS.values() for pattern in patterns)
    raise bad_value("from", path, f"contains no weights in a layout of the authors ({known}); see docs/released.md")


def _kind(file: Path) -> str:
    if any(file.match(pattern) for pattern in PATTERNS["safetensors"]):
        return "safetensors"
    with file.open("rb") as opened:
        start = opened.read(2)
    # A zip archive or, from torch before 1.6, a pickle; a msgpack of flax begins with a map or a list of two.
    return "torch" if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") else "flax"


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(file, f"damaged or no safetensors: {first_line(error)}") from error


def _read_torch(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The message advises the user to load the file without this protection.
        raise _unreadable(file, "it holds pickled objects other than tensors, which are never loaded") from error
    except Exception as error:  # torch raises many types for damaged files
        raise _unreadable(file, first_line(error)) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _unreadable(file, "it is no state of tensors by name")
    return {str(name): value for name, value in state.items()}


def _from_flax(file: Path) -> ReleasedWeights:
    try:
        found, step = _weights_and_step(file)
    except (OSError, ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise _unreadable(file, f"damaged or no flax msgpack: {first_line(error)}") from error
    return replace(ReleasedWeights({}, [file], "flax", step), state=from_jax(found, file))


def _weights_and_step(file: Path) -> tuple[dict[str, Tensor], int | None]:
    """Return path of the parameter, joined by slashes -> array, and the optimizer steps of a whole train state."""
    weights: dict[str, Tensor] = {}
    step: int | None = None
    for path, packed in _entries(file):
        parts = path.split("/")
        if parts[0] == "opt_state":
            continue
        value = _array(_unpack(packed) if isinstance(packed, bytes) else packed)
        if path == "step":
            step = int(value)
            continue
        while parts[0] == "params":
            parts = parts[1:]
        weights["/".join(parts)] = torch.as_tensor(value)
    return weights, step


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the path and the still packed message of every array of a stream, or those of a single tree."""
    with file.open("rb") as opened:
        unpacker = msgpack.Unpacker(opened, max_buffer_size=0, strict_map_key=False, ext_hook=_extension)
        for number, entry in enumerate(unpacker):
            if number == 0 and isinstance(entry, dict):
                yield from _leaves(entry, "")
            elif isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list):
                yield "/".join(map(str, entry[0])), entry[1]
            else:
                raise ValueError("it is neither a tree of arrays nor a stream of them")


def _leaves(tree: Tree, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and CHUNKED not in value:
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _unpack(message: bytes) -> Any:
    return msgpack.unpackb(message, strict_map_key=False, ext_hook=_extension)


def _extension(kind: int, data: bytes) -> Tensor:
    if kind not in (ARRAY, SCALAR):
        raise ValueError(f"it has an extension of type {kind}, which is no array")
    shape, dtype, content = msgpack.unpackb(data, raw=True)
    name = dtype.decode("ascii", errors="replace")
    if name not in DTYPES:
        raise ValueError(f"it has an array of dtype {name}")
    # A copy: the tensor may be written, the message may not.
    values = torch.frombuffer(bytearray(content), dtype=DTYPES[name]) if content else torch.empty(0, dtype=DTYPES[name])
    return values.reshape([int(length) for length in shape])


def _array(value: Any) -> Any:
    """Return an array that flax has written in parts as one tensor; other values are unchanged."""
    if not isinstance(value, dict):
        return value
    shape, parts = ([value[key][str(number)] for number in range(len(value[key]))] for key in ("shape", "chunks"))
    return torch.cat(parts).reshape([int(length) for length in shape])


def _unreadable(file: Path, reason: str) -> UserError:
    return bad_value("from", file, f"cannot be read ({reason}); see docs/released.md for what can")
