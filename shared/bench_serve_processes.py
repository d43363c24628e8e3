"""What a server on this machine costs: CPU time and memory of the processes behind a port, from Linux's /proc.

The server is whoever listens on the port, with all its children; where several processes share the port, the parent
they have in common belongs to it too. CPU time of children that have ended is in their parent's count. Elsewhere than
on Linux, or for another user's processes, nothing is known.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")
_LISTEN = "0A"


@dataclass(frozen=True)
class Usage:
    """At one moment, all processes together."""

    cpu_seconds: float
    """User and system time since they started; the clock's ticks are 10 ms."""
    rss_bytes: int
    """Resident sets added up: pages that processes share count once for each."""
    names: tuple[str, ...]
    """What they are, such as `haechi (pid 712)`."""


def of_port(port: int) -> list[int]:
    """The processes that listen on a TCP port and, where there are several, their common parent; empty if unknown.

    This process is never among them: what it spends itself cannot be told from what a server in it spends.
    """
    found = _listeners(port)
    parents = {_parent(pid) for pid in found}
    if len(found) > 1 and len(parents) == 1:
        found |= parents - _ancestors() - {0, 1}
    return [] if os.getpid() in found else sorted(found)


def is_here(family: int, peer: Any) -> bool:
    """True if a socket address is one of this machine's: only those can be bound."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((peer[0], 0, *peer[2:]))
        return True
    return False


def usage(roots: Iterable[int]) -> Usage | None:
    """What these processes and all their descendants have used up to now; None if none of them is there."""
    seconds, resident, names = 0.0, 0, []
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for pid in sorted(_with_descendants(set(roots))):
        fields = _stat(pid)
        if fields is None:
            continue
        # proc(5), counted from the state: 11 to 14 are utime, stime, cutime, cstime; 21 is rss in pages.
        seconds += sum(int(field) for field in fields[11:15]) / tick
        resident += int(fields[21]) * page
        names.append(f"{_name(pid)} (pid {pid})")
    return Usage(seconds, resident, tuple(names)) if names else None


def _listeners(port: int) -> set[int]:
    inodes = {inode for table in ("tcp", "tcp6") for inode in _sockets(PROC / "net" / table, port)}
    sockets = {f"socket:[{inode}]" for inode in inodes}
    return {pid for pid in _pids() if sockets and _holds(pid, sockets)}


def _sockets(table: Path, port: int) -> list[str]:
    """Inodes of the sockets that listen on a port."""
    try:
        rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _holds(pid: int, sockets: set[str]) -> bool:
    with contextlib.suppress(OSError):  # it ended, or is another user's
        for entry in os.scandir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) in sockets:
                    return True
    return False


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir(PROC) if name.isdigit()]
    except OSError:
        return []


def _with_descendants(roots: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid in _pids():
        children.setdefault(_parent(pid), []).append(pid)
    found: set[int] = set()
    left = list(roots)
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return found


def _ancestors() -> set[int]:
    """This process and those above it."""
    found, pid = set(), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        pid = _parent(pid)
    return found


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on: the name before it may hold spaces and brackets."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _name(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "ended"
