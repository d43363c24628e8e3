"""Reading the files of a package, from a folder or a zip, when nobody vouches for them yet.

Everything here treats its input as hostile: sizes are counted while bytes arrive (headers lie), names are checked
before they are used, links and devices are never followed, and nothing is ever extracted to disk or unpickled. Each
file is read exactly once; who hashes those bytes and uses the same bytes leaves no moment in between for a swap.

The one error is `PackageRefused`, with one sentence that names the package and the reason.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from shared.errors import PackageRefused
from shared.manifest import printable

MAX_ENTRIES = 4096
MAX_TOTAL_BYTES = 2 * 1024**3
"""Most bytes of all files of a package together, unpacked. ONNX itself (protobuf) ends at 2 GiB."""
MAX_RATIO = 200
"""Unpacked bytes for each byte of the zip file, beyond the first `FREE_BYTES`."""
FREE_BYTES = 64 * 1024**2
MAX_NAME = 240
MAX_DEPTH = 8
ZIP_SUFFIXES = (".zip", ".haechi")

_CHUNK = 1024**2
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. +@=-]*")
_WINDOWS_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_NUMPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def unsafe_name(name: str) -> str | None:
    """Why `name` may not be the name of a file in a package, or None if it may.

    Names are relative, with `/` between parts, and mean the same file on Linux, Windows and macOS.
    """
    if not name or len(name) > MAX_NAME:
        return f"is empty or longer than {MAX_NAME} characters"
    if "\\" in name or ":" in name or "\0" in name:
        return "holds a backslash, a colon or a NUL"
    if name.startswith("/"):
        return "is an absolute path"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of the package with '..'"
    if len(parts) > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} folders deep"
    for part in parts:
        if not _SEGMENT.fullmatch(part) or part.endswith((" ", ".")) or _WINDOWS_DEVICES.fullmatch(part):
            return "has a part that is not made of letters, digits and . _ - + @ = alone, or begins with a dot"
    return None


def is_zip_name(path: Path) -> bool:
    """Whether a package at this path is written as a zip."""
    return path.suffix.lower() in ZIP_SUFFIXES


def read_files(path: Path) -> dict[str, bytes]:
    """Every file of the package at `path`, by its name inside the package.

    Raises:
        PackageRefused: no such path, not a folder or zip, or anything in it breaks the rules of this module.
    """
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise PackageRefused(f"{path} is not a package: there is no such file or folder.") from error
    if stat.S_ISDIR(kind):
        return _read_folder(path)
    if not stat.S_ISREG(kind):
        raise PackageRefused(f"{path} is not a package: it is neither a folder nor a file.")
    try:
        with path.open("rb") as handle:
            return read_zip(handle, os.fstat(handle.fileno()).st_size, str(path))
    except OSError as error:
        raise PackageRefused(f"{path} could not be read: {error.strerror or error}.") from error


class _Budget:
    """Counts names and bytes as they arrive and refuses the package when they pass the bounds."""

    def __init__(self, label: str, most: int, *, paths: bool = True) -> None:
        self._label = label
        self._most = most
        self._paths = paths
        self._names: set[str] = set()

    def name(self, name: str) -> None:
        problem = unsafe_name(name) if self._paths else None
        if problem:
            raise PackageRefused(f"{self._label} is refused: the file name {name!r} {problem}.")
        # Where names are paths, two that differ in case alone are one file on Windows and macOS.
        same = name.casefold() if self._paths else name
        if same in self._names:
            raise PackageRefused(f"{self._label} is refused: it holds the file {name!r} twice.")
        self._names.add(same)
        if len(self._names) > MAX_ENTRIES:
            raise PackageRefused(f"{self._label} is refused: it holds more than {MAX_ENTRIES} files.")

    def read(self, handle: IO[bytes], name: str) -> bytes:
        chunks: list[bytes] = []
        while chunk := handle.read(_CHUNK):
            self._most -= len(chunk)
            if self._most < 0:
                raise PackageRefused(
                    f"{self._label} is refused: unpacked it is larger than its size allows (a zip bomb?), "
                    f"at the latest in {name}."
                )
            chunks.append(chunk)
        return b"".join(chunks)


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every entry below `root` that is not a plain folder, with its name relative to `root`; links are not followed."""
    pending: list[tuple[Path, str]] = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if name.count("/") >= MAX_DEPTH:
                        raise PackageRefused(f"{root} is refused: {name!r} is more than {MAX_DEPTH} folders deep.")
                    pending.append((Path(entry.path), name + "/"))
                else:
                    yield name, entry


def _read_folder(root: Path) -> dict[str, bytes]:
    budget = _Budget(str(root), MAX_TOTAL_BYTES)
    files: dict[str, bytes] = {}
    try:
        for name, entry in _walk(root):
            budget.name(name)
            if not entry.is_file(follow_symlinks=False):
                kind = "a link" if entry.is_symlink() else "not a plain file"
                raise PackageRefused(f"{root} is refused: {name} is {kind}; a package holds plain files only.")
            # O_NOFOLLOW and O_NONBLOCK: the entry may have become a link or a pipe since it was listed.
            with os.fdopen(os.open(entry.path, _OPEN_FLAGS), "rb") as handle:
                if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                    raise PackageRefused(f"{root} is refused: {name} is not a plain file.")
                files[name] = budget.read(handle, name)
    except OSError as error:
        raise PackageRefused(f"{root} could not be read: {error.strerror or error} ({error.filename}).") from error
    return files


def read_zip(handle: IO[bytes], size: int, label: str, *, paths: bool = True) -> dict[str, bytes]:
    """Every file of the zip in `handle` (`size` bytes long); `label` names it in errors.

    A zip that wraps everything in one top folder, as desktop tools make them, is read as if it did not. With `paths`
    False the names are not checked: they never become paths (the arrays of an .npz are called as ONNX calls tensors).

    Raises:
        PackageRefused: not a zip, damaged, encrypted, or breaking the rules of this module.
    """
    try:
        with zipfile.ZipFile(handle) as archive:
            budget = _Budget(label, min(MAX_TOTAL_BYTES, FREE_BYTES + MAX_RATIO * size), paths=paths)
            return _read_entries(archive, budget, label, paths=paths)
    except PackageRefused:
        raise
    # zipfile meets damaged input with many types (BadZipFile, zlib.error, struct.error, NotImplementedError,
    # RuntimeError, EOFError, ValueError, UnicodeDecodeError, OverflowError, MemoryError...); all mean the same to us.
    except Exception as error:
        reason = _first_line(error)
        raise PackageRefused(f"{label} is refused: it is not a sound zip file ({reason}); copy it again.") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0].rstrip(". "))


def _read_entries(archive: zipfile.ZipFile, budget: _Budget, label: str, *, paths: bool) -> dict[str, bytes]:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise PackageRefused(f"{label} is refused: it holds more than {MAX_ENTRIES} files.")
    prefix = _wrapping_folder([entry.orig_filename for entry in entries])
    files: dict[str, bytes] = {}
    for entry in entries:
        # orig_filename: zipfile cuts `filename` at a NUL and turns the machine's own separator into "/".
        name = entry.orig_filename.removeprefix(prefix)
        _refuse_odd_entry(entry, label)
        if entry.orig_filename.endswith("/"):
            if paths and name and (problem := unsafe_name(name.rstrip("/"))):
                raise PackageRefused(f"{label} is refused: the folder name {name!r} {problem}.")
            continue
        budget.name(name)
        with archive.open(entry) as handle:
            files[name] = budget.read(handle, name)
    return files


def _refuse_odd_entry(entry: zipfile.ZipInfo, label: str) -> None:
    name = entry.orig_filename
    if entry.flag_bits & 0x1:
        raise PackageRefused(f"{label} is refused: {name!r} is encrypted.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    expected = stat.S_IFDIR if name.endswith("/") else stat.S_IFREG
    if kind not in (0, expected):
        what = "a link" if kind == stat.S_IFLNK else "not a plain file"
        raise PackageRefused(f"{label} is refused: {name!r} is {what}; a package holds plain files only.")
    if name.endswith("/") and entry.file_size:
        raise PackageRefused(f"{label} is refused: the folder {name!r} has content.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PackageRefused(f"{label} is refused: {name!r} is compressed in an unusual way; use deflate.")


def _wrapping_folder(names: list[str]) -> str:
    """`folder/` if everything lies in one folder that holds a manifest, else the empty string."""
    top = names[0].split("/")[0] + "/" if names else ""
    wrapped = top != "/" and top + "manifest.json" in names and all(name.startswith(top) for name in names)
    return top if wrapped else ""


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """A zip of `files`: the same content gives the same bytes (no times, names in order)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def write_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """`arrays` as the bytes of a compressed .npz, without times. No object arrays: they would need pickling."""
    files: dict[str, bytes] = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    return write_zip(files)


def read_arrays(content: bytes, label: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz in memory, read-only, by name; `label` names the file in errors.

    numpy's own reader would unpack any size and allocate whatever a header claims; this one checks both first.

    Raises:
        PackageRefused: damaged, too large unpacked, or an array of objects (which only unpickling could read).
    """
    arrays: dict[str, np.ndarray] = {}
    for name, data in read_zip(io.BytesIO(content), len(content), label, paths=False).items():
        try:
            arrays[name.removesuffix(".npy")] = _read_array(data)
        # A damaged header reaches numpy's literal parser, which raises ValueError, SyntaxError, TypeError, tokenize's
        # errors, RecursionError, MemoryError...; all mean the same to us.
        except Exception as error:
            raise PackageRefused(
                f"{label} is refused: its array {name!r} cannot be read ({_first_line(error)})."
            ) from error
    return arrays


def _read_array(data: bytes) -> np.ndarray:
    buffer = io.BytesIO(data)
    version = np.lib.format.read_magic(buffer)
    if version not in _NUMPY_HEADERS:
        raise ValueError(f"array format {version} is not known")
    shape, fortran, dtype = _NUMPY_HEADERS[version](buffer)
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise ValueError("it is not an array of plain numbers or text")
    count = 1
    for length in shape:
        if length < 0:
            raise ValueError("its shape has a negative length")
        count *= length
    body = data[buffer.tell() :]
    if len(body) != count * dtype.itemsize:
        raise ValueError(f"it holds {len(body)} bytes where its header promises {count * dtype.itemsize}")
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
