"""Checkpoints: a state dict as one safetensors file, written whole or not at all.

``docs/checkpoints.md`` has the format, byte by byte. The package safetensors reads these files; it
is not needed to write or load them, and its own writer is not used: it takes all tensors at once
and has no checksum.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import re
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import extras, files
from .schedules import Plateau, Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Place = tuple[str | int, ...]

VERSION = 1

# What a dtype is called in the file.
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}
_NAMES = {tag: name for name, tag in _DTYPES.items()}

_PIECE = 1 << 20  # bytes under one CRC-32: they are still in cache when they are written
_SMALL = 1 << 26  # bytes of a file that is read rather than mapped
_HEADER_LIMIT = 100_000_000  # bytes; safetensors reads no longer ones
_DEPTH_LIMIT = 100  # levels
_BITS_LIMIT = 2048  # of an integer; Python refuses to print very long ones

# The header's own checksum comes first, so that it lies at the same bytes of every file.
_OPENING = b'{"__metadata__":{"header_crc32":"'
_DIGITS = slice(8 + len(_OPENING), 8 + len(_OPENING) + 8)

_LARGE = 1 << 20  # bytes of JSON that are looked at before they are read
_BUFFER = 1 << 16  # bytes of a mapped file that are checked at once
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')

_TEMPORARY = ".gradstep-{}.tmp"
_IS_TEMPORARY = re.compile(r"\.gradstep-[0-9a-f]{16}\.tmp")


def save(path: str | os.PathLike[str], state_dict: Mapping[str, Any]) -> None:
    """Write a state dict to ``path``: all of it, or the file that was there stays.

    Args:
        path: the file, by convention ``*.safetensors``; a symbolic link stays one, and what it
            points to is replaced. A new file gets the permissions that ``open`` would give it, a
            replaced one keeps its own.
        state_dict: any nesting of dicts with text keys, lists, tuples, str, int, float, bool, None,
            schedules and arrays (bool, integers, float16 to float64, bfloat16; of any layout).
            Subclasses and NumPy's scalars are written as the plain kind. Arrays are read where
            they lie, without a copy of the whole, and must not change meanwhile.

    Raises:
        TypeError, ValueError: the state dict has something that a file cannot hold, such as a
            lambda, named by its place; nothing is written then.
        OSError: from the file system; the file that was there stays, and no temporary is left.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from gradstep import checkpoint, schedules
        >>> state = {"t": 3, "lr": schedules.constant(0.1), "state": {"w": {"exp_avg": np.ones(2)}}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "state.safetensors"
        ...     checkpoint.save(path, state)
        ...     checkpoint.load(path)
        {'t': 3, 'lr': schedules.constant(0.1), 'state': {'w': {'exp_avg': array([1., 1.])}}}
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: got {type(state_dict).__name__}, wanted a mapping")
    found: dict[str, Array] = {}
    structure = _to_json(_encode(state_dict, (), found))
    # The widest types first: then each tensor is aligned to its own.
    tensors = dict(sorted(found.items(), key=lambda item: -item[1].itemsize))
    header = _header(structure, tensors, [0] * -(-_bytes(tensors) // _PIECE))
    if len(header) > _HEADER_LIMIT:
        raise ValueError(
            f"state_dict: got names and values that take {len(header):,} bytes, wanted at most "
            f"{_HEADER_LIMIT:,}, the longest header of a safetensors file"
        )
    with _replacing(Path(path)) as file:
        _write(file, header)
        checksums = _write_tensors(file, tensors.values())
        file.seek(0)
        _write(file, _header(structure, tensors, checksums))


def pass_on(path: str | os.PathLike[str], take: Callable[[dict[str, Any]], object]) -> None:
    """Give the state dict of a file to somebody who copies it.

    A small file is read into memory. A large one is mapped, so that states larger than memory need
    none of it twice; the file must then not be cut short while ``take`` runs.

    Args:
        path: the file.
        take: gets the state dict, whose arrays are not to be kept.

    Raises:
        As :func:`load`; ValueError where another program changed the file meanwhile.
    """
    with Path(path).open("rb", buffering=0) as file:
        try:
            before = os.fstat(file.fileno())
            is_mapped = before.st_size > _SMALL
            state_dict = _load(file, is_mapped)
            after = os.fstat(file.fileno())
            if is_mapped and (before.st_size, before.st_mtime_ns) != (
                after.st_size,
                after.st_mtime_ns,
            ):
                raise ValueError("got a file that another program changed while it was read")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        take(state_dict)


def load(path: str | os.PathLike[str], *, mapped: bool = False) -> dict[str, Any]:
    """The state dict that :func:`save` wrote, after every byte was checked.

    Args:
        path: the file.
        mapped: whether the arrays are read-only maps of the file instead of copies in memory, for
            states larger than memory. The file must not be cut short while they are in use; that
            :func:`save` replaces it does no harm (Windows refuses to, with an OSError from there).

    Raises:
        FileNotFoundError, OSError: from the file system.
        ImportError: there are bfloat16 arrays, and ml_dtypes is not installed.
        ValueError: naming the file, which is truncated, damaged, has bytes too many, was not
            written by :func:`save` or by that of a newer version.

    Example:
        >>> from gradstep import checkpoint
        >>> checkpoint.load("/dev/null")
        Traceback (most recent call last):
        ValueError: /dev/null: got 0 bytes, wanted a checkpoint of gradstep: truncated
    """
    with Path(path).open("rb", buffering=0) as file:
        try:
            return _load(file, mapped)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


# ---- the structure: a tree of values as JSON, its arrays apart ----


def _encode(value: Any, place: Place, tensors: dict[str, Array]) -> Any:
    """``value`` in what JSON has; its arrays go to ``tensors``. ``_decode`` is its inverse."""
    if len(place) > _DEPTH_LIMIT:
        raise ValueError(
            f"{_shown(place[:5])}…: got more than {_DEPTH_LIMIT} levels, wanted fewer "
            "(something that contains itself?)"
        )
    if isinstance(value, np.generic) and value.dtype.name in _DTYPES:
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > _BITS_LIMIT:
            raise ValueError(
                f"{_shown(place)}: got an integer of {value.bit_length()} bits, "
                f"wanted at most {_BITS_LIMIT}"
            )
        return value
    if isinstance(value, float):
        # JSON has no infinity, and a NaN has bits of its own.
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if isinstance(value, str):
        return _text(value, place)
    if isinstance(value, Schedule | Plateau):
        return {"$schedule": _encode(value.to_dict(), place, tensors)}
    if isinstance(value, np.ndarray):
        return {"$tensor": _add(value, place, tensors)}
    if isinstance(value, list | tuple):
        items = [_encode(item, (*place, i), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        fields = {
            _key(key, place): _encode(item, (*place, key), tensors) for key, item in value.items()
        }
        if any(key.startswith("$") for key in fields):
            return {"$dict": [list(item) for item in fields.items()]}
        return fields
    wanted = "wanted numbers, text, None, schedules, arrays, and dicts, lists and tuples of them"
    if callable(value):
        wanted = (
            "which a file cannot hold; wanted a schedule: those of gradstep.schedules are saved, "
            "also put together with schedules.join, and a function's values as schedules.table"
        )
    raise TypeError(f"{_shown(place)}: got {value!r:.100} ({type(value).__name__}), {wanted}")


def _text(value: str, place: Place) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{_shown(place)}: got {value!r:.100}, wanted text that UTF-8 has"
        ) from None
    return value


def _key(key: object, place: Place) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{_shown(place)}: got the key {key!r:.100}, wanted text keys")
    return _text(key, place)


def _add(array: Array, place: Place, tensors: dict[str, Array]) -> str:
    """Check an array, give it a name that no other has, and keep it."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{_shown(place)}: got a masked array, wanted a plain numpy.ndarray")
    if array.dtype.name not in _DTYPES or not array.dtype.isnative:
        raise TypeError(
            f"{_shown(place)}: got dtype {array.dtype}, wanted one of {', '.join(_DTYPES)} "
            "in native byte order"
        )
    # Names hold dots themselves, so that different places may read the same.
    in_state = len(place) > 1 and place[0] == "state"
    first = name = ".".join(map(str, place[1:] if in_state else place))
    count = 1
    while name in tensors or name == "__metadata__":
        count += 1
        name = f"{first}~{count}"
    tensors[name] = array
    return name


def _decode(value: Any, tensors: dict[str, Array]) -> Any:
    """The inverse of ``_encode``; takes each tensor out of ``tensors``."""
    if isinstance(value, list):  # in place: a list may take more memory than the file
        for i, item in enumerate(value):
            value[i] = _decode(item, tensors)
        return value
    if not isinstance(value, dict):
        return value
    match value:
        case {"$float": digits}:
            return struct.unpack(">d", bytes.fromhex(digits))[0]
        case {"$tuple": items}:
            return tuple(_decode(items, tensors))
        case {"$dict": items}:
            return {key: _decode(item, tensors) for key, item in items}
        case {"$schedule": fields}:
            fields = _decode(fields, tensors)
            return (Plateau if fields.get("schedule") == "Plateau" else Schedule).from_dict(fields)
        case {"$tensor": name}:
            return tensors.pop(name)
    for key, item in value.items():
        value[key] = _decode(item, tensors)
    return value


def _shown(place: Place) -> str:
    return "state_dict" + "".join(f"[{key!r}]" for key in place)


def _to_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _from_json(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twins)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"got {name}, wanted JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("got a key twice, wanted it once")
    return fields


# ---- the file: its header, then the tensors' bytes ----


def _bytes(tensors: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in tensors.values())


def _view(array: Array) -> memoryview:
    """The bytes of an array in C order, of its own memory where it lies so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _header(structure: str, tensors: Mapping[str, Array], checksums: Iterable[int]) -> bytes:
    """The file up to the tensors: the length of the JSON, and the JSON."""
    fields: dict[str, Any] = {
        "__metadata__": {
            "header_crc32": "0" * 8,
            "gradstep_checkpoint": str(VERSION),
            "tensors_crc32": "".join(f"{checksum:08x}" for checksum in checksums),
            "structure": structure,
        }
    }
    begin = 0
    for name, array in tensors.items():
        end = begin + array.nbytes
        shape, dtype = list(array.shape), _DTYPES[array.dtype.name]
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = _to_json(fields).encode()
    text += b" " * (-len(text) % 8)
    return _sealed(len(text).to_bytes(8, "little") + text)


def _sealed(header: bytes) -> bytes:
    """With its checksum, that of the same bytes with zeros for its digits."""
    sealed = bytearray(header)
    sealed[_DIGITS] = b"0" * 8
    sealed[_DIGITS] = b"%08x" % zlib.crc32(sealed)
    return bytes(sealed)


def _write(file: FileIO, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _write_tensors(file: FileIO, arrays: Iterable[Array]) -> list[int]:
    """Write the arrays one after the other; return the CRC-32 of each piece of what was written."""
    checksums, checksum, room = [], 0, _PIECE
    for array in arrays:
        rest = _view(array)
        while rest:
            part, rest = rest[:room], rest[room:]
            checksum = zlib.crc32(part, checksum)
            _write(file, part)
            room -= len(part)
            if not room:
                checksums.append(checksum)
                checksum, room = 0, _PIECE
    return checksums if room == _PIECE else [*checksums, checksum]


def _load(file: FileIO, mapped: bool) -> dict[str, Any]:
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise ValueError(f"got {size} bytes, wanted a checkpoint of gradstep: truncated")
    prefix = _read(file, 8)
    length = int.from_bytes(prefix, "little")
    if length > _HEADER_LIMIT:
        raise ValueError(
            f"got a header length of {length:,} bytes, wanted at most {_HEADER_LIMIT:,}: "
            "damaged, or no safetensors file"
        )
    if length > size - 8:
        raise ValueError(
            f"got {size - 8:,} bytes after the header length, wanted {length:,} or more: "
            "truncated, or no safetensors file"
        )
    header = prefix + _read(file, length)
    tensors, structure, checksums = _parse_header(header, size)
    arrays = _read_tensors(file, tensors, len(header), checksums, mapped)
    if len(structure) > _LARGE and not structure.startswith("{"):
        raise ValueError("got a structure that does not fit the tensors: damaged")
    try:
        state_dict = _decode(_from_json(structure), arrays)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise ValueError(f"got a structure that cannot be read ({error}): damaged") from None
    if arrays or not isinstance(state_dict, dict):
        raise ValueError("got a structure that does not fit the tensors: damaged")
    return state_dict


def _check_hollow(header: bytes) -> None:
    """Raise ValueError for brackets that no checkpoint has: each would take 64 bytes of memory."""
    if len(header) < _LARGE:
        return
    text = header[8:].rstrip(b" ")
    if not text.startswith(b"{"):
        raise ValueError("got a header that is not JSON: damaged, or no safetensors file")
    bare = _STRING.sub(b"", text)
    entries = text.count(b'"data_offsets"') + text.count(b'"__metadata__"') + 1
    if bare.count(b"[") + bare.count(b"{") > 3 * entries:
        raise ValueError("got a header that is not JSON: damaged, or no safetensors file")


def _parse_header(
    header: bytes, size: int
) -> tuple[dict[str, tuple[str, tuple[int, ...]]], str, list[int]]:
    """Each tensor's dtype and shape in the order of the file, the structure, and the checksums.

    Everything is checked that memory will be taken for.
    """
    _check_hollow(header)
    try:
        fields = _from_json(header[8:].decode())
    except (ValueError, RecursionError):
        raise ValueError("got a header that is not JSON: damaged, or no safetensors file") from None
    metadata = fields.pop("__metadata__", None) if isinstance(fields, dict) else None
    if not isinstance(metadata, dict) or "gradstep_checkpoint" not in metadata:
        raise ValueError("got no checkpoint of gradstep, wanted a file that gradstep saved")
    version = metadata["gradstep_checkpoint"]
    if not isinstance(version, str) or not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise ValueError(f"got {version!r:.50} for the version of the checkpoint format: damaged")
    if int(version) > VERSION:
        raise ValueError(
            f"got version {version} of the checkpoint format, wanted at most {VERSION}: "
            "a newer gradstep wrote it"
        )
    # Text against text: as numbers, digits of either case are equal.
    if not header.startswith(_OPENING, 8) or _sealed(header) != header:
        raise ValueError(
            "got a header that does not fit its checksum: damaged, or another program rewrote it"
        )
    if set(metadata) != {"header_crc32", "gradstep_checkpoint", "tensors_crc32", "structure"}:
        raise ValueError(f"got the metadata {', '.join(metadata):.200}: damaged")
    tensors, end = {}, 0
    for name, entry in fields.items():
        match entry:
            case {"dtype": str(tag), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
                sizes = len(shape) <= 64 and all(type(n) is int and n >= 0 for n in shape)
                if tag in _NAMES and sizes and start == end and len(entry) == 3:
                    itemsize = 2 if tag == "BF16" else np.dtype(_NAMES[tag]).itemsize
                    end = start + math.prod(shape) * itemsize
                    if end == stop:
                        tensors[name] = (_NAMES[tag], tuple(shape))
                        continue
        raise ValueError(f"got the entry {entry!r:.200} for tensor {name!r:.100}: damaged")
    if size - len(header) != end:
        what = "truncated" if size - len(header) < end else "bytes too many"
        raise ValueError(
            f"got {size - len(header):,} bytes after the header, wanted {end:,}: {what}"
        )
    structure, digits = metadata["structure"], metadata["tensors_crc32"]
    if not (
        isinstance(structure, str)
        and isinstance(digits, str)
        and re.fullmatch("[0-9a-f]*", digits)
        and len(digits) == 8 * -(-end // _PIECE)
    ):
        raise ValueError("got no structure and a checksum for each piece: damaged")
    return tensors, structure, [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]


def _read(file: FileIO, size: int) -> bytes:
    data = bytearray(size)
    _read_into(file, memoryview(data))
    return bytes(data)


def _read_into(file: FileIO, rest: memoryview) -> None:
    while rest:
        count = file.readinto(rest)
        if not count:
            raise ValueError("got the end of the file where it was longer before: truncated")
        rest = rest[count:]


def _read_tensors(
    file: FileIO,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    offset: int,
    checksums: list[int],
    mapped: bool,
) -> dict[str, Array]:
    """The arrays by name, every piece of them checked."""
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if mapped else None
    arrays: dict[str, Array] = {}
    checksum, room, piece = 0, _PIECE, 0
    since = ""  # the tensor in which the piece starts

    def close(until: str) -> None:
        nonlocal checksum, room, piece
        if checksum != checksums[piece]:
            where = repr(until) if since == until else f"{since!r} to {until!r}"
            raise ValueError(f"got tensors that do not fit their checksum ({where}): damaged")
        checksum, room, piece = 0, _PIECE, piece + 1

    name = ""
    for name, (kind, shape) in tensors.items():
        bf16 = kind == "bfloat16"
        dtype = extras.need("ml_dtypes", "bfloat16 arrays", "bf16").bfloat16 if bf16 else kind
        try:
            array = np.ndarray(shape, dtype, memory, offset if mapped else 0)
        except (ValueError, OverflowError):
            raise ValueError(f"got the shape {shape} for tensor {name!r}: damaged") from None
        offset += array.nbytes
        arrays[name] = array
        # What is mapped is checked as it is read: a file that is cut short ends in an error here,
        # where looking into the map would end the process.
        rest = memoryview(bytearray(min(array.nbytes, _BUFFER))) if mapped else _view(array)
        left = array.nbytes
        while left:
            part = rest[: min(room, left)]
            left -= len(part)
            if room == _PIECE:
                since = name
            _read_into(file, part)
            rest = rest if mapped else rest[len(part) :]
            checksum = zlib.crc32(part, checksum)
            room -= len(part)
            if not room:
                close(name)
    if room < _PIECE:
        close(name)
    return arrays


# ---- whole or not at all ----


@contextmanager
def _replacing(path: Path) -> Iterator[FileIO]:
    """A file to write that takes the place of ``path`` at the end, or leaves no trace."""
    old: int | None = None
    with suppress(FileNotFoundError):
        old = path.stat().st_mode
    if old is not None:
        if not stat.S_ISREG(old):
            code = errno.EISDIR if stat.S_ISDIR(old) else errno.EINVAL
            raise OSError(code, "wanted a regular file", str(path))
        if not os.access(path, os.W_OK):  # to replace it needs only a folder that is writable
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    target = path.resolve()
    temporary: Path | None = None
    try:
        _sweep(target.parent)
        temporary, file = _create(target.parent, 0o666 if old is None else stat.S_IMODE(old))
        with file:
            yield file
            if old is not None:
                files.set_mode(file.fileno(), stat.S_IMODE(old))  # whatever the umask says
            files.sync(file.fileno())
            files.replace(file, temporary, target)
        files.sync_folder(target.parent)
    except OSError as error:  # names a temporary that nobody knows, or nothing
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # it is the file now, if all went well
                temporary.unlink()


def _create(folder: Path, mode: int) -> tuple[Path, FileIO]:
    """A new temporary, locked as long as it is open: by that others know that it is in use."""
    while True:
        path = folder / _TEMPORARY.format(secrets.token_hex(8))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | files.PLAIN, mode)
        with suppress(OSError):  # a file system without locks: there no sweep gets one either
            files.lock(fd)
        if os.fstat(fd).st_nlink:
            return path, FileIO(fd, "r+")
        os.close(fd)  # a sweep came before the lock


def _sweep(folder: Path) -> None:
    """Delete the temporaries of writers that are no more."""
    for path in [path for path in folder.iterdir() if _IS_TEMPORARY.fullmatch(path.name)]:
        with suppress(OSError):  # gone meanwhile, another user's, or its writer lives
            files.delete_unused(path)
