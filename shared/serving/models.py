"""A model as the server runs it: its package, its loaded session, its queue, and whether it can be relied on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from starlette.requests import Request

from shared.errors import BadInput, HaechiError, PackageRefused
from shared.log import get_logger
from shared.package import Manifest, Package
from shared.serving import encoded, oip
from shared.serving.errors import ClientGone, Unavailable
from shared.serving.limits import Limits
from shared.serving.metrics import Metrics
from shared.serving.queue import USUAL, Job, ModelQueue, Priority
from shared.serving.tensors import Array

if TYPE_CHECKING:
    from shared.runtime import Model
    from shared.serving.cluster import Cluster, RemoteModel
    from shared.serving.tuning import Choice

    Load = Callable[[Package, int | None], tuple[Model | RemoteModel, Choice]]

GOLDEN_SECONDS = 15.0
"""How often the golden samples pass through the queue and its workers."""
LATELY_SECONDS = 60.0
"""A model whose golden samples have not passed for so long is not ready."""
_WATCH_SECONDS = 1.0

_log = get_logger(__name__)


class ServedModel:
    """One version of one model.

    Args:
        package: opened and verified.
        version: under which it is served: its number in the registry, or the manifest's version.
        limits: bounds of its queue.
        metrics: where it counts.
        threads: for one inference; None: what is best here is measured.
        cluster: computes in place of this process.
    """

    def __init__(
        self,
        package: Package,
        version: str,
        limits: Limits,
        metrics: Metrics,
        threads: int | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self.package = package
        self.manifest: Manifest = package.manifest
        self.name: str = package.manifest.name
        self.version = version
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.failure = ""
        self.choices: dict[str, Any] = {}
        """What was measured and chosen when it was loaded; see `tuning.Choice`."""
        self._threads = threads
        self._cluster = cluster
        self._model: Model | RemoteModel | None = None
        self._limits = limits
        self._passed = 0.0
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False
        self.successor: ServedModel | None = None
        """The model that has taken its place, once it was replaced."""
        self.metrics = metrics.add_model(self.name, version, self.pending)
        self.queue = ModelQueue(
            self.name,
            self._compute,
            self._replay_golden,
            self.metrics,
            max_requests=limits.queue_requests or limits.most_waiting,
            max_bytes=limits.queue_bytes,
            prepare=self._prepare,
        )

    @property
    def model(self) -> Model | RemoteModel:
        """The loaded model; do not call its `run` in the event loop, use `infer`.

        Raises:
            Unavailable: it is not loaded (yet).
        """
        if self._model is None:
            raise Unavailable(f"model {self.name} is not ready: {self.trouble()}.")
        return self._model

    @property
    def current(self) -> ServedModel:
        """Itself, or once it was replaced and admits no more, the model in its place."""
        return self.successor.current if self._closed and self.successor is not None else self

    def pending(self) -> int:
        """Requests that wait."""
        return self.queue.pending

    def trouble(self) -> str:
        """Why this model is not ready, in a few words, or an empty string when it is."""
        if self.state == "loading":
            return "it is loading"
        if self.state == "failed":
            return self.failure
        since = time.monotonic() - self._passed
        if since > LATELY_SECONDS:
            return f"its golden samples have not passed for {since:.0f} s"
        return self.queue.trouble()

    @property
    def ready(self) -> bool:
        """True once golden samples have passed through the worker, and while it can be relied on."""
        return not self.trouble()

    def check_ready(self) -> None:
        """Raise `Unavailable` unless `ready`."""
        trouble = self.trouble()
        if trouble:
            raise Unavailable(f"model {self.name} is not ready: {trouble}.")

    async def start(self) -> None:
        """Load the package, measure how to run it, start the workers and send the golden samples through them; `ready`
        afterwards.

        Raises:
            PackageRefused: the package cannot be loaded, or its golden samples give other outputs.
        """
        from shared.serving import tuning

        try:
            load: Load = tuning.load if self._cluster is None else self._cluster.load
            model, choice = await asyncio.to_thread(load, self.package, self._threads)
            self._model, self.choices = model, choice.as_dict()
            if self._limits.queue_requests is None:
                self.queue.max_requests = choice.waiting(self._limits.most_waiting)
            self.choices["queue_requests"] = self.queue.max_requests
            self._can_batch = tuning.can_batch(self.manifest)
            self.queue.start(choice.workers, choice.max_batch, choice.workers / choice.per_second)
            await self._probe()
        except Exception as error:
            self.state, self.failure = "failed", str(error).rstrip(".") or type(error).__name__
            raise
        self.state = "ready"
        self._watcher = asyncio.create_task(self._watch())
        _log.info("model_ready", model=self.name, version=self.version, provider=model.provider)

    def close(self) -> None:
        """Admit no more; what waits is still computed. `queue.join` waits for it."""
        self._closed = True
        self.queue.close()
        if self._watcher is not None:
            self._watcher.cancel()

    async def free(self) -> None:
        """Give back what it holds on the cluster, after `close` and once its requests are answered."""
        from shared.serving.cluster import RemoteModel

        if self._cluster is not None and isinstance(self._model, RemoteModel):
            await asyncio.to_thread(self._cluster.remove, self._model)

    async def infer(
        self,
        inputs: Mapping[str, Array],
        *,
        request: Request | None = None,
        size: int | None = None,
        deadline: float | None = None,
        priority: Priority = USUAL,
    ) -> dict[str, Array]:
        """Run the model in a worker thread and wait for the outputs.

        Args:
            inputs: arrays by name, as the manifest declares them; not to be changed until this returns.
            request: whose body has been read; when its client goes away, the job is not computed.
            size: bytes of the inputs, counted if not given.
            deadline: by `time.perf_counter()`; None: there is none.
            priority: see `queue.Priority`.

        Raises:
            BadInput: the inputs do not fit the model, or the model cannot compute them.
            Busy: the queue is full, or the deadline would pass first.
            ClientGone: the client has closed its connection.
            DeadlinePassed: it did pass before the request's turn came.
            ModelFailed: the model itself is broken.
            TooLarge: the inputs are over the queue's bytes.
            Unavailable: not ready, or stopping.
        """
        if self.current is not self:  # it was replaced while this request's body was still on its way
            return await self.current.infer(inputs, request=request, size=size, deadline=deadline, priority=priority)
        self.check_ready()
        if size is None:
            size = sum(array.nbytes for array in inputs.values())
        batch = oip.batch_size(inputs, self.manifest.inputs)
        job = self.queue.submit(
            inputs, size, batch, deadline=deadline, priority=priority, kind=self._kind(inputs, batch)
        )
        try:
            if request is None:
                return await job.outputs
            return await _outputs_or_gone(job, request)
        finally:
            self.queue.cancel(job)  # without effect once its outputs are there

    def _kind(self, inputs: Mapping[str, Array], batch: int) -> Hashable:
        """What requests must have in common to be computed together; None: this one must be alone."""
        if self.queue.max_batch == 1 or not self._can_batch:
            return None
        if any(len(array) != batch for array in inputs.values()):
            return None
        return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(inputs.items()))

    def _prepare(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """In a worker thread. Image files become tensors here, and other BYTES text, which is what ONNX strings are."""
        inputs = encoded.decode(self.manifest, inputs, self._limits.max_pixels)
        return {name: _as_text(name, array) for name, array in inputs.items()}

    def _compute(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.model.run(inputs)

    def _replay_golden(self) -> None:
        self._compare_golden(self.model.run(self.package.golden.inputs))

    def _compare_golden(self, outputs: Mapping[str, Array]) -> None:
        from shared import runtime

        for name, expected in self.package.golden.outputs.items():
            problem = runtime.tolerance_problem(name, expected, outputs[name], self.manifest.golden_tolerance)
            if problem:
                raise PackageRefused(f"model {self.name} fails its golden samples: {problem}; roll it back.")

    async def _probe(self) -> None:
        """Send the golden samples through the queue. Raises what is wrong."""
        inputs = dict(self.package.golden.inputs)
        self._compare_golden(await self.queue.submit(inputs, size=0, counted=False, priority=1).outputs)
        self._passed = time.monotonic()
        self.queue.healthy = True

    async def _watch(self) -> None:
        """Mend the workers, and make sure again and again that the model still answers rightly."""
        probe: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            self.queue.mend()
            if probe is not None and probe.done():
                with contextlib.suppress(Unavailable):  # it is stopping
                    self._judge(probe)
                probe = None
            elif probe is None and time.monotonic() - self._passed > GOLDEN_SECONDS:
                probe = asyncio.create_task(self._probe())

    def _judge(self, probe: asyncio.Task[None]) -> None:
        try:
            probe.result()
        except Unavailable:
            raise
        except HaechiError as error:
            if self.queue.healthy:
                _log.error("model_broken", model=self.name, version=self.version, error=str(error))
            self.queue.healthy = False


async def _outputs_or_gone(job: Job, request: Request) -> dict[str, Array]:
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((job.outputs, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not job.outputs.done():
            raise ClientGone("the client closed its connection before its turn came.")
        return job.outputs.result()
    finally:
        watcher.cancel()


async def _disconnected(request: Request) -> None:
    while True:
        message: Mapping[str, Any] = await request.receive()
        if message["type"] == "http.disconnect":
            return


def _as_text(name: str, array: Array) -> Array:
    if array.dtype.kind != "O":
        return array
    try:
        text = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError:
        raise BadInput(f"input {name}: this model takes text, and a BYTES element is not UTF-8.") from None
    return np.array(text, dtype=object).reshape(array.shape)
