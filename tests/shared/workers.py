"""What tests of packages and registry run in other processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from shared import registry, runtime
from shared.registry import Registry
from tests.shared.packages import make_package

runtime.onnxruntime()  # at import, so that a process forked from one that holds this module starts at once


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.shared.workers"])


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start one of the functions below in a process of its own, forked from one without threads."""
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def add_all(root: Path, packages: list[Path], start: float) -> None:
    """Wait for the moment `start` (time.time), then add every package."""
    time.sleep(max(0.0, start - time.time()))
    store = Registry(root, who="adder")
    for path in packages:
        store.add(path)


def promote_in_turn(root: Path, name: str, versions: list[int], rounds: int) -> None:
    """Promote the versions one after the other, `rounds` times."""
    store = Registry(root, who="promoter")
    for _ in range(rounds):
        for version in versions:
            store.promote(name, version)


def change_without_end(root: Path, packages: list[Path], ready: Path) -> None:
    """Add the packages under alternating aliases, promote and roll back, until killed. `ready` appears at the start."""
    store = Registry(root, who="killed")
    ready.touch()
    turn = 0
    while True:
        version = store.add(packages[turn % len(packages)], alias=("challenger", "champion")[turn % 2])
        store.promote(version.name, version.version)
        if turn % 3 == 2:
            store.rollback(version.name)
        turn += 1


def change_and_die(root: Path, package: Path, action: str, step: int) -> None:
    """Do one change of `tiny`, but die before file operation number `step`."""
    store = Registry(root, who="killed")
    die_before(root, step)
    if action == "add":
        store.add(package, alias="champion")
    elif action == "promote":
        store.promote("tiny", 2)
    else:
        store.rollback("tiny")


def write_and_die(destination: Path, step: int) -> None:
    """Write a package, but die before file operation number `step`."""
    die_before(destination.parent, step)
    make_package(destination)


def die_before(root: Path, step: int) -> None:
    """From now on, kill -9 this process right before its file operation number `step` (from 0) below `root`."""
    left = step

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        if event == "open":
            writes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if writes and str(arguments[0]).startswith(str(root)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)  # Python reports every file operation here before it does it


def hold_lock(root: Path, ready: Path, seconds: float) -> None:
    """Hold the registry's lock."""
    with registry._lock(root / "lock"):
        ready.touch()
        time.sleep(seconds)
