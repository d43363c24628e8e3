"""A file with one JSON line for each message, whole lines only."""

from __future__ import annotations

import json
import os
from pathlib import Path

from solutions.cctv.config import LinesSink
from solutions.cctv.sinks.post import NotSent, Post

_BACK = 1 << 20
"""How far back the beginning of a torn line is looked for."""


class Lines:
    """Appends; a line is on disk when `send` returns.

    A kill or a full disk may leave a line torn: the next `send` takes its piece away first. The outbox sends that
    message again, so that nothing is lost.
    """

    def __init__(self, config: LinesSink, folder: Path | None = None) -> None:
        """
        Args:
            folder: in which a relative path is meant.
        """
        self.path = (folder or Path()) / config.path

    def wants(self, _post: Post) -> bool:
        """All."""
        return True

    def send(self, post: Post) -> None:
        """Append it.

        Raises:
            NotSent: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _append(descriptor, post.json + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise NotSent(f"{self.path} cannot be written: {error.strerror or error}; free some space.") from error

    def close(self) -> None:
        """Nothing is held."""


def _append(descriptor: int, line: bytes) -> None:
    end = _mended(descriptor)
    try:
        os.lseek(descriptor, end, os.SEEK_SET)
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _mended(descriptor: int) -> int:
    """Where the next line goes, after a last line without an end has been ended, or taken away if it is torn."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    start = max(0, size - _BACK)
    tail = os.pread(descriptor, size - start, start)
    if not tail or tail.endswith(b"\n"):
        return size
    torn = tail[tail.rfind(b"\n") + 1 :]
    try:
        json.loads(torn)
    except ValueError:
        os.ftruncate(descriptor, size - len(torn))
        return size - len(torn)
    os.pwrite(descriptor, b"\n", size)  # whole, only its end is missing
    return size + 1
