"""The bounded queue in front of one model, and the worker threads behind it.

The event loop never computes. A request is admitted or refused at once (`submit`): refused with `Busy` when
`max_requests` wait already, when the inputs that wait or are computed would exceed `max_bytes`, or when it could not be
answered before its deadline. An admitted job runs in a worker thread and its future is resolved in the event loop that
submitted it. Urgent jobs overtake others; a job that is cancelled, or whose deadline passes, while it waits is not
computed. Where batching pays, jobs of one shape that wait together are computed together, and none waits for company.

A batch that fails is computed again one by one, so that a job that raises fails alone; if the error is not plainly the
request's, the model's golden samples are run once more to tell whose fault it was: the request's (400) or the model's
(500, and the queue reports itself unhealthy until they pass again). A worker that is stuck or has died is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from shared.errors import BadInput, HaechiError
from shared.log import get_logger
from shared.serving import tracing
from shared.serving.errors import Busy, DeadlinePassed, ModelFailed, Refusal, TooLarge, Unavailable
from shared.serving.metrics import ModelMetrics
from shared.serving.tensors import Array

Arrays = Mapping[str, Array]
Run = Callable[[Arrays], dict[str, Array]]
Prepare = Callable[[Arrays], Arrays]
Priority = Literal[1, 2, 3]
"""1 is served before 2, which is the usual, and 2 before 3, which may fill only half of the queue."""
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
USUAL: Priority = 2
STUCK_SECONDS = 60.0
"""An execution that takes longer has its worker replaced, as long as not `_MOST_STUCK` are stuck already."""
_MOST_STUCK = 3
"""Threads cannot be ended from outside: more would only eat the machine, and whoever watches readiness must act."""

_log = get_logger(__name__)


class Job:
    """One admitted request. `outputs` is resolved in the event loop that submitted it."""

    __slots__ = (
        "batch",
        "cancelled",
        "counted",
        "deadline",
        "inputs",
        "kind",
        "loop",
        "outputs",
        "priority",
        "size",
        "submitted",
        "trace",
    )

    def __init__(
        self,
        inputs: Arrays,
        size: int,
        batch: int,
        *,
        counted: bool,
        deadline: float | None,
        priority: Priority,
        kind: Hashable,
    ) -> None:
        self.inputs = inputs
        self.size = size
        self.batch = batch
        self.counted = counted
        self.deadline = deadline
        self.priority = priority
        self.kind = kind
        """Jobs of one kind, unless it is None, may be computed together: all their inputs are of one shape but for the
        first dimension."""
        self.loop = asyncio.get_running_loop()
        self.outputs: asyncio.Future[dict[str, Array]] = self.loop.create_future()
        self.submitted = time.perf_counter()
        self.trace = tracing.current() if counted else None
        self.cancelled = False


class ModelQueue:
    """A bounded queue and its workers.

    Args:
        name: of the model, for messages.
        run: computes prepared inputs; called in worker threads, several at once if `workers` > 1.
        check: runs the golden samples; raises when the model itself is broken.
        metrics: where to count.
        max_requests: how many may wait; those being computed are not counted.
        max_bytes: bytes of inputs that may wait or be computed.
        workers: threads. One is right where `run` uses all cores itself.
        max_batch: inferences that are computed together at most; 1: none are.
        prepare: turns a request's inputs into the model's (decodes pictures, say); also in the worker threads.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        check: Callable[[], None],
        metrics: ModelMetrics,
        *,
        max_requests: int,
        max_bytes: int,
        workers: int = 1,
        max_batch: int = 1,
        prepare: Prepare = lambda inputs: inputs,
    ) -> None:
        self.name = name
        self.healthy = True
        self.max_requests = max_requests
        self.max_batch = max_batch
        self._run = run
        self._prepare = prepare
        self._check = check
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._waiting: tuple[deque[Job], ...] = (deque(), deque(), deque())
        self._bytes = 0
        self._closing = False
        self._changed = threading.Condition()
        self._busy_since: dict[threading.Thread, float] = {}
        self._average = 0.05  # seconds for one execution; a moving average, for deadlines and Retry-After
        self._threads: list[threading.Thread] = []
        self._stuck: list[threading.Thread] = []
        self._died = False
        self._workers = workers

    def start(self, workers: int | None = None, max_batch: int | None = None, seconds: float | None = None) -> None:
        """Start the workers.

        Args:
            workers, max_batch: in place of those given before, now that the model has been measured.
            seconds: what one execution takes.
        """
        self._workers = workers or self._workers
        self.max_batch = max_batch or self.max_batch
        self._average = seconds or self._average
        for _ in range(self._workers):
            self._start_worker()

    def close(self) -> None:
        """Admit no more. What waits already is computed, then the workers end; `join` waits for them."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait for the workers to end after `close`; False if one still computes after `seconds`."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def pending(self) -> int:
        """Requests that wait; those being computed are not counted."""
        return sum(map(len, self._waiting))

    @property
    def bytes_held(self) -> int:
        """Bytes of inputs that wait or are computed."""
        return self._bytes

    @property
    def computing(self) -> int:
        """Workers that compute now."""
        return len(self._busy_since)

    def trouble(self) -> str:
        """Why this queue cannot be relied on, or an empty string."""
        if self._closing:
            return "it is stopping"
        if not self.healthy:
            return "its golden samples fail"
        if self._died:
            return "a worker has died"
        if self._over(time.perf_counter()):
            return f"one execution has taken more than {STUCK_SECONDS:.0f} s"
        return ""

    def mend(self) -> None:
        """Replace workers that are stuck or have died. To be called every second or so."""
        with self._changed:
            if self._closing:
                return
            self._stuck = [thread for thread in self._stuck if thread.is_alive()]
            late = [thread for thread in self._over(time.perf_counter()) if thread in self._threads]
            self._died = False
            dead = [thread for thread in self._threads if not thread.is_alive()]
            for thread in dead + late[: _MOST_STUCK - len(self._stuck)]:
                self._threads.remove(thread)
                self._busy_since.pop(thread, None)  # a retired worker's delay is no trouble any more
                if thread.is_alive():
                    self._stuck.append(thread)
                self._metrics.restarts += 1
                self._start_worker()
                _log.error("worker_replaced", model=self.name, stuck=thread.is_alive())

    def check_admission(
        self, size: int = 0, deadline: float | None = None, priority: Priority = USUAL, *, counted: bool = True
    ) -> None:
        """Refuse now what `submit` would refuse, so that a body need not be received in vain.

        Raises:
            Busy: the queue is full, or the deadline would pass first.
            TooLarge: the inputs alone are over the queue's bytes.
            Unavailable: the queue is closing.
        """
        if self._closing:
            raise Unavailable(f"model {self.name} is stopping; send the request to another server.")
        if size > self._max_bytes:
            raise TooLarge(f"model {self.name}: inputs of {size} bytes are over the queue's {self._max_bytes} bytes.")
        if not counted:
            return  # the server's own probes are never refused: they tell whether it works at all
        waiting = self.pending
        most = self.max_requests if priority < 3 else max(1, self.max_requests // 2)
        if waiting >= most or self._bytes + size > self._max_bytes:
            self._metrics.failed("REJECTED")
            raise Busy(
                f"model {self.name} is busy: its queue is full.", retry_after=max(1, math.ceil(self._wait(waiting)))
            )
        if deadline is not None:
            ahead = sum(map(len, self._waiting[:priority]))
            if time.perf_counter() + self._wait(ahead) + self._average > deadline:
                self._metrics.failed("REJECTED")
                raise Busy(
                    f"model {self.name} is busy: the request could not be answered before its deadline.",
                    retry_after=max(1, math.ceil(self._wait(ahead))),
                )

    def submit(
        self,
        inputs: Arrays,
        size: int,
        batch: int = 1,
        *,
        counted: bool = True,
        deadline: float | None = None,
        priority: Priority = USUAL,
        kind: Hashable = None,
    ) -> Job:
        """Admit a request or refuse it at once. To be called in an event loop.

        Args:
            inputs: arrays by name, not to be changed until the job is done.
            size: their bytes.
            batch: inferences in this request.
            counted: False for the server's own probes, which no metric shows.
            deadline: by `time.perf_counter()`; a job that has not begun by then fails with `DeadlinePassed`.
            priority: see `Priority`.
            kind: see `Job.kind`.

        Raises:
            Busy, TooLarge, Unavailable: see `check_admission`.
        """
        with self._changed:
            self.check_admission(size, deadline, priority, counted=counted)
            job = Job(inputs, size, batch, counted=counted, deadline=deadline, priority=priority, kind=kind)
            self._waiting[priority - 1].append(job)
            self._bytes += size
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """The client has gone: do not compute the job if it still waits, and drop its outputs if not."""
        if job.outputs.done() and not job.outputs.cancelled():
            return
        with self._changed:
            if job.cancelled:
                return
            job.cancelled = True
            try:
                self._waiting[job.priority - 1].remove(job)
                self._bytes -= job.size
            except ValueError:
                pass  # a worker has it; its outputs will find nobody
        if job.counted:
            self._metrics.failed("CANCELED")

    def _wait(self, ahead: int) -> float:
        """Seconds until a job begins that has `ahead` others before it, as far as can be told."""
        seconds = ahead * self._average / self.max_batch
        busy = list(self._busy_since.values())
        if len(busy) >= self._workers:
            # What has run for longer than usual is expected to run for as long again.
            now = time.perf_counter()
            seconds += sum(max(self._average / 2, now - since) for since in busy)
        return seconds / self._workers

    def _over(self, now: float) -> list[threading.Thread]:
        return [thread for thread, since in self._busy_since.copy().items() if now - since > STUCK_SECONDS]

    def _start_worker(self) -> None:
        thread = threading.Thread(target=self._live, name=f"haechi-{self.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _live(self) -> None:
        try:
            self._work()
        except BaseException:
            self._died = True
            raise

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                while not (jobs := self._take()):
                    if self._closing:
                        return
                    self._changed.wait()
                self._busy_since[me] = time.perf_counter()
            self._execute(jobs)
            with self._changed:
                self._busy_since.pop(me, None)
                if me not in self._threads:
                    return  # it was replaced while it was stuck
            del jobs  # an idle worker must not hold the last request's arrays

    def _take(self) -> list[Job]:
        """The next jobs to compute together, without those whose deadline has passed. The lock is held."""
        now = time.perf_counter()
        for waiting in self._waiting:
            while waiting:
                job = waiting.popleft()
                if job.deadline is not None and now > job.deadline:
                    self._bytes -= job.size
                    self._settle(job, DeadlinePassed(f"model {self.name}: the deadline passed before its turn came."))
                elif self.max_batch > 1 and job.kind is not None:
                    return [job, *self._company(job, waiting)]
                else:
                    return [job]
        return []

    def _company(self, first: Job, waiting: deque[Job]) -> list[Job]:
        """Jobs that can be computed together with `first`, removed from those that wait. The lock is held."""
        found: list[Job] = []
        room = self.max_batch - first.batch
        while waiting and waiting[0].kind == first.kind and waiting[0].batch <= room:
            found.append(waiting.popleft())
            room -= found[-1].batch
        return found

    def _execute(self, jobs: Sequence[Job]) -> None:
        """Compute the jobs and settle each of them; it never raises, so that the worker lives on."""
        began = time.perf_counter()
        try:
            inputs = self._prepare(jobs[0].inputs if len(jobs) == 1 else _joined(jobs))
            prepared = time.perf_counter()
            outputs = self._run(inputs)
            ended = time.perf_counter()
            parts = [outputs] if len(jobs) == 1 else _parted(outputs, jobs)
        except Exception as error:  # whatever it was, it must fail as few as possible
            if len(jobs) > 1:
                for job in jobs:
                    self._execute([job])
                return
            self._tell(jobs, began)
            self._finish(jobs, [self._blame(error)])
            return
        self._average += 0.1 * (ended - began - self._average)
        if jobs[0].counted:
            queued = sum(began - job.submitted for job in jobs)
            self._metrics.executed(
                [job.batch for job in jobs], queued, prepared - began, ended - prepared, time.perf_counter() - ended
            )
        self._tell(jobs, began)
        self._finish(jobs, parts)

    def _tell(self, jobs: Sequence[Job], began: float) -> None:
        """Note in the jobs' traces, where there are any, that they have been computed."""
        for job in jobs:
            if job.trace is not None:
                told = self._metrics.model, self._metrics.version, len(jobs), job.submitted
                job.trace.computed(*told, began, time.perf_counter())

    def _finish(self, jobs: Sequence[Job], results: Sequence[dict[str, Array] | HaechiError]) -> None:
        with self._changed:
            self._bytes -= sum(job.size for job in jobs)
        # After the bytes are given back: who has its answer may send the next request at once.
        for job, result in zip(jobs, results, strict=True):
            self._settle(job, result)

    def _blame(self, error: Exception) -> HaechiError:
        """The error that the client sees: its own mistake, or ours if the golden samples fail as well."""
        if isinstance(error, BadInput | Refusal):
            return error
        try:
            self._check()
        except Exception as broken:
            if self.healthy:
                _log.error("model_broken", model=self.name, error=str(error), golden=str(broken))
            self.healthy = False
            return ModelFailed(f"model {self.name} fails on its own golden samples; load it anew or roll back.")
        self.healthy = True
        if isinstance(error, HaechiError):
            return BadInput(str(error))
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _log.info("request_failed", model=self.name, error=str(error)[:1000])
        return BadInput(f"model {self.name} could not compute this request: {words[:300]}")

    def _settle(self, job: Job, result: dict[str, Array] | HaechiError) -> None:
        if job.cancelled:
            return  # counted when it was cancelled
        if job.counted:
            seconds = time.perf_counter() - job.submitted
            if not isinstance(result, HaechiError):
                self._metrics.succeeded(seconds)
            elif isinstance(result, DeadlinePassed):
                self._metrics.failed("REJECTED", seconds)
            else:
                self._metrics.failed("OTHER" if isinstance(result, BadInput) else "BACKEND", seconds)
        with contextlib.suppress(RuntimeError):  # the event loop has closed: nobody waits any more
            job.loop.call_soon_threadsafe(_resolve, job.outputs, result)


def _joined(jobs: Sequence[Job]) -> Arrays:
    return {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}


def _parted(outputs: Mapping[str, Array], jobs: Sequence[Job]) -> list[dict[str, Array]]:
    """Each job's share of the outputs.

    Raises:
        ValueError: an output has not one row for each inference; the jobs must be computed one by one.
    """
    ends = np.cumsum([job.batch for job in jobs])
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != ends[-1]:
            raise ValueError(f"{name} cannot be parted")
    starts = [0, *ends[:-1]]
    spans = zip(starts, ends, strict=True)
    return [{name: array[start:end] for name, array in outputs.items()} for start, end in spans]


def _resolve(future: asyncio.Future[dict[str, Array]], result: dict[str, Array] | HaechiError) -> None:
    if future.done():
        return
    if isinstance(result, HaechiError):
        future.set_exception(result)
    else:
        future.set_result(result)
