"""`haechi serve --workers N`: several processes that answer at one address, and the one that keeps them alive.

The supervisor binds the address and forks the workers, which all accept from the one listening socket: when one is
killed, the connections that nobody had accepted yet are simply taken by the others. Each worker writes a byte into a
pipe every second; one that has ended, or has been silent for `SILENT_SECONDS`, is replaced at once (later and later, if
it keeps ending). The first worker must become ready before the others are started, so that a package that cannot be
served is one sentence and not N. A worker whose supervisor is gone drains and ends.

The workers tell one another the little they must agree on through files in one folder (`agreement.py`): their metrics,
added up by whoever is asked for them, and which models were loaded and unloaded. The console keeps its open pages in
memory, so only the first worker has it, on a port of its own to which the others send browsers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from shared.errors import BadInput, HaechiError
from shared.log import get_logger

SILENT_SECONDS = 30.0
"""A worker whose event loop stands still for so long is killed."""
LOADING_SECONDS = 900.0
"""One that loads its models has longer."""
GRACE_SECONDS = 45.0
"""How long stopping workers have to finish what they admitted, before they are killed."""
_TICK_SECONDS = 0.1
_QUICK_DEATH_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 30.0
ALIVE, READY = b".", b"R"

_log = get_logger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a worker stands among the others."""

    index: int
    count: int
    folder: Path
    """Of the files that the workers share."""
    console_port: int
    """Where the first worker serves the console."""
    heart: int
    """File descriptor of the pipe to the supervisor."""
    again: bool = False
    """True in the place of a worker that has ended."""

    def beat(self, ready: bool) -> bool:
        """Tell the supervisor that this worker is alive; False if there is no supervisor any more."""
        try:
            os.write(self.heart, READY if ready else ALIVE)
        except BlockingIOError:
            return True  # it has not read for a while
        except OSError:
            return False
        return True


@dataclass
class _Worker:
    index: int
    pid: int = 0
    heart: int = -1
    ready: bool = False
    started: float = 0.0
    heard: float = 0.0
    pause: float = 0.0
    """Seconds to wait before the next start; it grows while the worker keeps ending at once."""
    restarts: int = 0


Serve = Callable[[Place], None]
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def supervise(count: int, console: socket.socket, serve: Serve) -> int:
    """Keep `count` workers running until a signal asks to stop; the exit code.

    Args:
        count: of workers.
        console: a listening socket for the console.
        serve: what a worker does; returns when it has drained.

    Raises:
        BadInput: this system cannot fork.
    """
    if not hasattr(os, "fork"):
        raise BadInput("--workers needs Linux or macOS; leave it out here.")
    with tempfile.TemporaryDirectory(prefix="haechi-workers-") as folder:
        return _Supervisor(count, console.getsockname()[1], serve, Path(folder)).run()


class _Supervisor:
    def __init__(self, count: int, console_port: int, serve: Serve, folder: Path) -> None:
        self._workers = [_Worker(index) for index in range(count)]
        self._console_port = console_port
        self._serve = serve
        self._folder = folder
        self._stopping = False

    def run(self) -> int:
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        first, *others = self._workers
        self._start(first)
        while not first.ready and not self._stopping:
            code = self._ended(first)
            if code is not None:
                return code
            self._listen(first)
            time.sleep(_TICK_SECONDS)
        for worker in others:
            self._start(worker)
        while not self._stopping:
            for worker in self._workers:
                self._keep(worker)
            time.sleep(_TICK_SECONDS)
        return self._end()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _start(self, worker: _Worker) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        os.set_blocking(theirs, False)
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that came between the fork and the new handlers would be lost: it waits until they are in place.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            for other in self._workers:
                if other.heart >= 0:
                    os.close(other.heart)
            again = worker.restarts > 0
            self._work(Place(worker.index, len(self._workers), self._folder, self._console_port, theirs, again))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(theirs)
        worker.pid, worker.heart, worker.ready = pid, ours, False
        worker.started = worker.heard = time.monotonic()

    def _work(self, place: Place) -> None:
        """In the new process; it never returns."""
        code = 1
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._serve(place)
            code = 0
        except HaechiError as error:
            print(f"error: {error}", file=sys.stderr)
            code = error.exit_code
        except KeyboardInterrupt:
            code = 130
        except BaseException as error:
            _log.error("worker_failed", worker=place.index, exc_info=error)
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _listen(self, worker: _Worker) -> None:
        with contextlib.suppress(BlockingIOError):
            heard = os.read(worker.heart, 4096)
            if heard:
                worker.heard = time.monotonic()
                worker.ready = heard.endswith(READY)

    def _ended(self, worker: _Worker) -> int | None:
        """The exit code of a worker that has ended (128 + its signal, if one killed it), else None."""
        pid, status = os.waitpid(worker.pid, os.WNOHANG)
        if pid == 0:
            return None
        os.close(worker.heart)
        worker.pid, worker.heart = 0, -1
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _keep(self, worker: _Worker) -> None:
        """Look after one worker."""
        now = time.monotonic()
        if not worker.pid:
            if now - worker.heard >= worker.pause:
                self._start(worker)
            return
        self._listen(worker)
        if now - worker.heard > (SILENT_SECONDS if worker.heard > worker.started else LOADING_SECONDS):
            _log.error("worker_silent", worker=worker.index, pid=worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
            worker.heard = now
        pid, code = worker.pid, self._ended(worker)
        if code is None:
            return
        quick = now - worker.started < _QUICK_DEATH_SECONDS
        worker.pause = min(max(0.5, 2 * worker.pause), _LONGEST_PAUSE_SECONDS) if quick else 0.0
        worker.heard = now
        worker.restarts += 1
        _log.error("worker_ended", worker=worker.index, pid=pid, code=code, again_in=worker.pause)
        with contextlib.suppress(OSError):
            text = "".join(f"{each.index} {each.restarts}\n" for each in self._workers)
            (self._folder / "restarts.txt").write_text(text, encoding="ascii")

    def _end(self) -> int:
        """Stop all workers, and wait for them."""
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGTERM)
        worst = 0
        while any(worker.pid for worker in self._workers):
            for worker in self._workers:
                if worker.pid and (code := self._ended(worker)) is not None:
                    # One that was still starting has no answers to give: the signal ends it as it is.
                    worst = max(worst, 0 if code == 128 + signal.SIGTERM and not worker.ready else code)
            if time.monotonic() > deadline:
                for worker in self._workers:
                    if worker.pid:
                        os.kill(worker.pid, signal.SIGKILL)
            time.sleep(_TICK_SECONDS)
        return worst
