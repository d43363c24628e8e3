"""Writing files so that a crash at any moment leaves the old content or the new, never half of one.

Pattern: write to a temporary name in the same folder, flush, fsync, rename, fsync the folder. The temporary names
begin with `.tmp-`, so that readers and listings can skip what a killed process left behind. A temporary folder is
locked while its process lives; one without a lock is litter, and the next `new_folder` of the same name clears it away.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shared.errors import HaechiError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing is cleared away
    fcntl = None  # type: ignore[assignment]

TEMPORARY_PREFIX = ".tmp-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _temporary_beside(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder for fsync
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_bytes(path: Path | str, content: bytes) -> None:
    """Replace the file at `path` by `content` in one step; the folder is made if it is missing.

    Raises:
        HaechiError: the disk is full or the folder cannot be written, with the path in the message.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise _not_written(path, error) from error


def write_text(path: Path | str, text: str) -> None:
    """Like `write_bytes`, for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Like `write_text`, for JSON that people read: two spaces, keys in the order given, NaN refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(destination: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `destination` when the block ends well, and vanishes when it does not.

    Args:
        destination: the final folder; it must not exist unless `replace`.
        replace: put the new folder in the place of what is there (a folder, a file, or a link, whose target stays).
            On Linux both change names in one step, so that whoever looks, and whoever survives a crash, finds the old
            or the new; elsewhere there is a moment between two renames at which neither is there.

    Raises:
        HaechiError: the destination exists, or the disk is full.
    """
    destination = Path(destination)
    if os.path.lexists(destination) and not replace:
        raise HaechiError(f"{destination} exists already; choose another name or remove it.")
    temporary = _temporary_beside(destination)
    try:
        _clear_litter(destination)
        with _held(lambda: _temporary_beside(destination)) as temporary:
            yield temporary
            _sync_tree(temporary)
            if os.path.lexists(destination):
                _swap(temporary, destination)
            else:
                os.replace(temporary, destination)
            _sync_folder(destination.parent)
            _remove(temporary)  # where the old one lies now, if there was one
    except OSError as error:
        _remove(temporary)
        raise _not_written(destination, error) from error
    except BaseException:
        _remove(temporary)
        raise


def _not_written(path: Path, error: OSError) -> HaechiError:
    return HaechiError(f"{path} could not be written: {error.strerror or error}; free space or choose another place.")


@contextlib.contextmanager
def _held(name: Callable[[], Path]) -> Iterator[Path]:
    """A new folder, locked so that nobody takes it for litter; the kernel frees the lock when this process dies."""
    while True:
        folder = name()
        folder.mkdir(parents=True)
        if fcntl is None:
            yield folder
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # file systems without locks: then nobody clears away either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():  # else it was cleared away before the lock was taken
                yield folder
                return
        finally:
            os.close(descriptor)


def _clear_litter(destination: Path) -> None:
    """Remove temporary folders of `destination` that killed processes left."""
    if fcntl is None:
        return
    for left in destination.parent.glob(f"{TEMPORARY_PREFIX}{glob.escape(destination.name)}-*"):
        try:
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)
        except OSError:
            pass  # somebody is writing it
        finally:
            os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    """Files first, then the folders that name them, inner ones first."""
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync_file(Path(inner, name))
        _sync_folder(Path(inner))


def _swap(new: Path, old: Path) -> None:
    """Exchange the names of two things; afterwards `new` names what was `old`."""
    if _exchange()(new, old):
        return
    aside = _temporary_beside(old)
    os.replace(old, aside)
    os.replace(new, old)
    os.replace(aside, new)


@functools.cache
def _exchange() -> Callable[[Path, Path], bool]:
    """renameat2 with RENAME_EXCHANGE: True when done, False where the kernel or the file system has no such thing."""
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "renameat2"):
        return lambda _new, _old: False
    call = library.renameat2
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    call.restype = ctypes.c_int

    def exchange(new: Path, old: Path) -> bool:
        sys.audit("os.rename", str(new), str(old), -1, -1)  # as os.replace reports itself
        return bool(call(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0)

    return exchange


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
