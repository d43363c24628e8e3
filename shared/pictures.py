"""The pictures behind recent results, kept on this machine within a bound on their bytes.

A decision is recorded for good (`shared.records`); its picture is kept only as long as there is room, because pictures
are a thousand times larger and often show what should not be kept for ever. Each result has one file
`<root>/<id // 1000>/<id>-<input fingerprint>.zip` with named parts; the oldest results go first when the bound is
reached. The fingerprint in the name keeps a picture from being shown for another result that has the same number in
another database. Files are replaced in one step but not forced to disk: after a power cut a picture may be missing, and
a damaged file reads as missing.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from shared.errors import HaechiError
from shared.files import TEMPORARY_PREFIX

MAX_BYTES = 2 * 1024**3
"""Bound on all kept pictures together, unless told otherwise: 2 GiB."""

_ROOM = 0.9  # what is kept when room is made, so that it is not made again for every picture
_RECOUNT_EVERY = 256  # writes after which the folder is counted anew, since another process may write there too
_ABANDONED_S = 3600  # age after which a temporary file is taken for a killed process's


class PictureStore:
    """Keeps, finds and forgets pictures. Safe from several threads; several processes may share a folder.

    Args:
        root: the folder, made when the first picture is kept.
        max_bytes: bound on all files together. One result that alone is larger is not kept.
    """

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._bytes: int | None = None
        self._writes = 0

    def keep(self, result_id: int, fingerprint: str, parts: Mapping[str, bytes]) -> bool:
        """Store the parts of one result, making room first; False if they alone are over the bound.

        Args:
            result_id: its number in the records.
            fingerprint: SHA-256 of the picture, in hex.
            parts: content by part name, for example `picture` and `heatmap`.

        Raises:
            HaechiError: the folder cannot be written.
        """
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for name, content in parts.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        content = packed.getvalue()
        if len(content) > self.max_bytes:
            return False
        path = self._path(result_id, fingerprint)
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(4)}")
        try:
            with self._lock:
                self._make_room(len(content), result_id // 1000)
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(content)
                os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise HaechiError(f"{path} could not be written: {error.strerror or error}; free some space.") from error
        return True

    def read(self, result_id: int, fingerprint: str, part: str) -> bytes | None:
        """One part, or None if it was never kept here, has made room for newer ones, or is damaged."""
        try:
            with zipfile.ZipFile(self._path(result_id, fingerprint)) as archive:
                return archive.read(part)
        except (OSError, KeyError, zipfile.BadZipFile, EOFError):
            return None

    def _path(self, result_id: int, fingerprint: str) -> Path:
        safe = "".join(letter for letter in fingerprint[:16] if letter in "0123456789abcdef")
        return self.root / f"{result_id // 1000}" / f"{result_id}-{safe}.zip"

    def _make_room(self, size: int, newest: int) -> None:
        if self._bytes is None or self._writes >= _RECOUNT_EVERY:
            self._bytes, self._writes = sum(length for _, length in self._oldest_first()), 0
        self._writes += 1
        self._bytes += size
        if self._bytes <= self.max_bytes:
            return
        files = list(self._oldest_first())
        self._bytes = sum(length for _, length in files) + size
        for path, length in files:
            if self._bytes <= self.max_bytes * _ROOM:
                break
            path.unlink(missing_ok=True)
            self._bytes -= length
            if _number(path.parent) < newest - 1:  # a folder in which nobody is about to write
                with contextlib.suppress(OSError):
                    path.parent.rmdir()  # fails until its last file is gone

    def _oldest_first(self) -> Iterator[tuple[Path, int]]:
        """Every file with its bytes, killed processes' leavings first, but none that is being written now."""
        for folder in sorted(self.root.glob("*/"), key=_number):
            for path in sorted(folder.iterdir(), key=_number):
                with contextlib.suppress(OSError):  # another process made room at the same time
                    status = path.stat()
                    if not path.name.startswith(TEMPORARY_PREFIX) or time.time() - status.st_mtime > _ABANDONED_S:
                        yield path, status.st_size


def _number(path: Path) -> int:
    digits = path.name.partition("-")[0]
    return int(digits) if digits.isdigit() else -1
