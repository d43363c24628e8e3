"""What a running server knows; routes are built around it.

A solution adds its routes by a function `(state: ServerState) -> APIRouter` that is passed to `create_app`. It is
called before any model is loaded: take models from `state.models` when a request comes, not when the router is built.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection

from shared.errors import BadInput, HaechiError
from shared.log import get_logger
from shared.package import Package
from shared.records import Records
from shared.serving.agreement import Agreement
from shared.serving.auth import Auth
from shared.serving.cluster import Cluster, OnRay
from shared.serving.errors import NotFound
from shared.serving.keys import Principal, Role
from shared.serving.limits import Budget, Limits
from shared.serving.metrics import Metrics
from shared.serving.models import ServedModel
from shared.serving.rates import Rates
from shared.serving.repository import Repository
from shared.serving.tls import Certificate
from shared.serving.tracing import Tracer
from shared.serving.workers import Place
from shared.settings import Settings

STOP_SECONDS = 10.0
"""How long a stopping server waits for what its workers still compute."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class ServerOptions:
    """What to serve and how."""

    packages: Sequence[Path] = ()
    """Packages (folder or zip), or folders that hold them."""
    registry: bool | None = None
    """Serve the registry's champions too; None: only when no packages are given."""
    threads: int | None = None
    """For one inference; None: what is best here is measured."""
    auth: bool = True
    """Ask for keys. False is for programs on this machine only."""
    limits: Limits = field(default_factory=Limits)
    timeout_ms: float | None = None
    """In which a request wants its answer that says nothing itself; None: it waits as long as it takes."""
    rate: float | None = None
    """Requests a second for each key; None: no limit."""
    place: Place | None = None
    """Among the workers of one server; None: this process is all there is."""
    grpc: str | None = None
    """Address host:port to answer gRPC calls at; port 0 takes a free one; None: none are answered."""
    tls: Certificate | None = None
    """What HTTPS (and gRPC) shows; None: everything travels unencrypted."""
    ray: OnRay | None = None
    """Compute on this Ray cluster; None: in this process."""
    trace: bool = False
    """Export traces even where no OTEL_* variable of the environment asks for it."""


class ServerState:
    """Everything the routes share.

    Attributes:
        settings, options, limits: as given.
        models: the version of each model that answers when none is named, by model name.
        versions: every version, by model name and version.
        records: the store of decisions, thread-safe and blocking: call it through `asyncio.to_thread`.
        auth: identity and roles; `require` is its dependency.
        metrics: a solution registers its own in `metrics.registry`.
        repository: loads and unloads models.
        draining: True once the server is asked to stop.
        on_failure: called when a model cannot be loaded, from the event loop.
    """

    def __init__(
        self, settings: Settings, options: ServerOptions, auth: Auth, records: Records, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.options = options
        self.limits = options.limits
        self.models: dict[str, ServedModel] = {}
        self.versions: dict[str, dict[str, ServedModel]] = {}
        self.records = records
        self.auth = auth
        self.metrics = metrics
        self.rates = Rates(options.rate)
        self.budget = Budget(options.limits.max_bytes_in_flight, metrics.body_bytes)
        self.tracer: Tracer | None = None
        """None: nothing is traced."""
        self.started = time.time()
        self.draining = False
        self.agreement = None if options.place is None else Agreement(options.place)
        self.cluster = None if options.ray is None else Cluster(options.ray)
        self.repository = Repository(self)
        self.failure: HaechiError | None = None
        self.on_failure: Callable[[HaechiError], None] | None = None
        self.grpc_port: int | None = None
        """Where gRPC calls are answered, once they are."""
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def require(self, role: Role) -> Callable[[HTTPConnection], Awaitable[Principal]]:
        """A FastAPI dependency; see `Auth.require`."""
        return self.auth.require(role)

    def make_model(self, package: Package, version: str) -> ServedModel:
        """A model to serve, not started yet.

        Args:
            package: opened and verified.
            version: under which it is to be served.
        """
        options = self.options
        return ServedModel(package, version, self.limits, self.metrics, options.threads, self.cluster)

    def add_model(self, served: ServedModel) -> None:
        """Serve a model; the version added last answers when none is named.

        Raises:
            BadInput: this name and version are served already.
        """
        if served.version in self.versions.get(served.name, {}):
            raise BadInput(
                f"{served.package.path}: model {served.name} {served.version} is served already; leave one out."
            )
        self.versions.setdefault(served.name, {})[served.version] = served
        self.models[served.name] = served

    def replace_model(self, name: str, versions: dict[str, ServedModel]) -> None:
        """Serve these versions of a model, and no others, from now on; the last one answers when none is named."""
        self.versions[name] = versions
        self.models[name] = list(versions.values())[-1]

    def remove_model(self, name: str) -> list[ServedModel]:
        """Serve a model no more; the versions there were.

        Raises:
            NotFound: there is none.
        """
        self.find(name)
        del self.models[name]
        return list(self.versions.pop(name).values())

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """The model of this name, ready or not.

        Raises:
            NotFound: there is none, or not in this version.
            Unavailable: it has been unloaded.
        """
        versions = self.versions.get(name)
        if versions is None:
            self.repository.check_loaded(name)
            have = ", ".join(self.models) or "none"
            raise NotFound(f"model {name[:64]} is unknown; this server has: {have}.")
        if version is None:
            return self.models[name]
        if version not in versions:
            raise NotFound(f"model {name} has no version {version[:64]}; it has: {', '.join(versions)}.")
        return versions[version]

    def of_task(self, task: str) -> list[ServedModel]:
        """The models of one solution, such as `inspection`, ready or not."""
        return [served for served in self.models.values() if served.manifest.task == task]

    def trouble(self) -> str:
        """Why the server is not ready, in a few words, or an empty string when it is."""
        if self.draining:
            return "it is stopping"
        for served in self.every_version():
            words = served.trouble()
            if words:
                return f"model {served.name}: {words}"
        return "" if self.options.grpc is None or self.grpc_port else "it does not answer gRPC yet"

    async def audit(self, who: str, action: str, subject: str, **details: Any) -> None:
        """Write who did what into the records."""
        await asyncio.to_thread(self.records.audit, who, action, subject, details)

    def start(self) -> None:
        """Begin to load the models, one after another, while the server already answers liveness."""
        _log.info("server_started", models=[served.name for served in self.every_version()])
        self._tasks = [asyncio.create_task(self.repository.run()), asyncio.create_task(self._answer_grpc())]

    def render_metrics(self) -> bytes:
        """Prometheus' text, of all workers together. Reads their files where there are several."""
        text = self.metrics.render()
        return text if self.agreement is None else self.agreement.together(text)

    def tick(self) -> bool:
        """Called every second: tell supervisor and fellow workers how things are; False if there is no supervisor."""
        if self.agreement is None:
            return True
        self.agreement.publish(self.metrics.render())
        return self.agreement.place.beat(not self.trouble())

    def fail(self, error: HaechiError) -> None:
        """Note that a model cannot be served that should be from the start."""
        self.failure = error
        if self.on_failure is not None:
            self.on_failure(error)

    def drain(self) -> None:
        """Readiness turns false and queues admit no more; what waits is still computed."""
        self.draining = True
        for served in self.every_version():
            served.close()

    async def stop(self) -> None:
        """Drain, let the workers finish, close the records."""
        self.drain()
        self._stopping.set()
        if self._tasks:
            self._tasks[0].cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.repository.stop(STOP_SECONDS)
        if self.cluster is not None:
            await asyncio.to_thread(self.cluster.close)
        self.records.close()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)
        _log.info("server_stopped")

    async def _answer_grpc(self) -> None:
        if self.options.grpc is None:
            return
        from shared.serving.rpc.server import serving

        try:
            async with serving(self, self.options.grpc, STOP_SECONDS) as self.grpc_port:
                await self._stopping.wait()
        except HaechiError as error:
            self.fail(error)

    def every_version(self) -> list[ServedModel]:
        """Every version of every model, ready or not."""
        return [served for versions in self.versions.values() for served in versions.values()]
