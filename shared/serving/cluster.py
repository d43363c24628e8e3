"""Computing models on a Ray cluster: `haechi serve --ray`.

The server stays what it is: protocol, keys, limits, queues, metrics and console are in its process. Only `Model.run`
goes elsewhere: each model is an application of Ray Serve whose replicas load the package, pass its golden samples and
compute. Ray starts more replicas while requests wait and fewer when they do not, and replaces those that die. A request
whose replica died is sent once more to another one; inference changes nothing, so computing it twice does no harm.

Ray is the extra `cluster`, and is imported only here, when a model is loaded.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shared import runtime
from shared.errors import BadInput, HaechiError, PackageRefused
from shared.log import get_logger
from shared.package import Package
from shared.serving.errors import Unavailable
from shared.serving.replica import NAMESPACE, Keeper, Replica, portable
from shared.serving.tensors import Array
from shared.serving.tuning import Choice

ANSWER_SECONDS = 30.0
"""For one request in all, the second attempt included; below `queue.STUCK_SECONDS`, since it is no worker's fault."""
DEPLOY_SECONDS = 180.0
"""Until the first replica of a model must be there. A cluster that grows by itself takes minutes to add a node."""
IN_FLIGHT = 2
"""Requests that a replica is sent at once: the next one's arrays travel while it computes."""
_WANTED_IN_FLIGHT = 1.5
"""Above this average Ray adds replicas: one client alone keeps one busy, two clients need a second one."""
_CHECK_SECONDS = 2.0
"""How often Ray looks whether a replica lives, and so how soon it starts another; see `Replica.check_health`."""
_CHECK_TIMEOUT = 60.0
_PREFIX = "haechi-"
_OBJECT_STORE = 256 * 1024 * 1024
"""Of a cluster that we start. Requests do not pass through it, packages do."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class OnRay:
    """Which cluster computes, and how much of it one model may take."""

    address: str | None = None
    """host:port of the cluster; `auto`: the one that runs on this machine; None: that of RAY_ADDRESS, or if it is not
    set, one that is started here and ends with the server."""
    replicas: int | None = None
    """Most replicas of one model; None: see `most_replicas`."""

    @staticmethod
    def of(wanted: bool, address: str | None, replicas: int | None, workers: int) -> OnRay | None:
        """What the command line asks for; None: no cluster.

        Raises:
            BadInput: the options do not go together, there is no Ray, or the address cannot work.
        """
        if not wanted:
            if address is not None or replicas is not None:
                raise BadInput("--ray-address and --ray-replicas say how to compute on Ray; give --ray too.")
            return None
        if workers > 1:
            raise BadInput("--ray computes in the cluster's processes; leave --workers out.")
        chosen = OnRay(address, replicas)
        chosen.check()
        return chosen

    def check(self) -> None:
        """Raise `BadInput` if there is no Ray, or this address cannot work."""
        if any(importlib.util.find_spec(name) is None for name in ("ray", "starlette", "aiohttp")):
            raise BadInput("--ray needs Ray Serve; install the extra: pip install 'haechi[cluster]'.")
        address = self.address or os.environ.get("RAY_ADDRESS") or "auto"
        if address != "auto" and not re.fullmatch(r"[^:/]+:\d+|\[[0-9a-fA-F:]+\]:\d+", address):
            raise BadInput(
                f"--ray-address {address}: give auto or HOST:PORT; the server itself must run on one of the cluster's "
                "machines (Ray's client protocol, ray://, is not enough)."
            )


@dataclass(frozen=True)
class ClusterChoice(Choice):
    """What a replica measured, and how many of them there may be. `workers` are requests on their way at once."""

    most_replicas: int


class RemoteModel:
    """A model whose replicas compute elsewhere; has what the server needs of `runtime.Model`."""

    def __init__(self, package: Package, app: str, handle: Any, provider: str) -> None:
        self.package = package
        self.manifest = package.manifest
        self.provider = provider
        self.app = app
        """Name of its application on the cluster."""
        self._handle = handle

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `runtime.Model.run`. Blocks; may be called from many threads at once.

        Raises:
            BadInput, HaechiError: as the replica raised them.
            Unavailable: no replica answered in time, or two of them were lost with this request.
        """
        until = time.monotonic() + ANSWER_SECONDS
        for _attempt in range(2):
            try:
                return self._ask(dict(inputs), until)
            except _Lost as error:
                lost = error
                _log.warning("replica_lost", model=self.manifest.name, error=str(error)[:300])
        raise Unavailable(f"model {self.manifest.name}: the replicas that computed this request were lost.") from lost

    def _ask(self, inputs: dict[str, Array], until: float) -> dict[str, Array]:
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        response = self._handle.remote(inputs)
        try:
            outputs: dict[str, Array] = response.result(timeout_s=max(0.0, until - time.monotonic()))
            return outputs
        except TimeoutError as error:
            response.cancel()
            raise Unavailable(
                f"model {self.manifest.name}: no replica has answered within {ANSWER_SECONDS:.0f} s."
            ) from error
        except RayTaskError as error:  # the replica itself raised; what it raised is the cause
            cause = error.cause
            raise cause if isinstance(cause, HaechiError) else HaechiError(str(cause)) from None
        except (RayError, RayServeException) as error:
            raise _Lost(f"{type(error).__name__}: {error}") from error


class _Lost(Exception):
    """The replica, its node, or the way there was lost while it had the request."""


class Cluster:
    """This server's share of a Ray cluster. It connects when the first model is loaded.

    Args:
        options: which cluster.

    Raises:
        BadInput: Ray is not installed, or the address cannot work.
    """

    def __init__(self, options: OnRay) -> None:
        options.check()
        self._options = options
        self._name = _PREFIX + secrets.token_hex(6)
        self._keeper: Any = None
        self._handles: dict[str, Any] = {}
        self._number = 0
        self._closing = False
        self._own = False
        self._lock = threading.Lock()

    def load(self, package: Package, threads: int | None) -> tuple[RemoteModel, Choice]:
        """Deploy a package and wait for its first replica; takes the place of `tuning.load`. Blocks.

        Args:
            threads: for one inference, which are as many of the cluster's CPUs; None: one.

        Raises:
            BadInput: there is no such cluster.
            PackageRefused: a replica could not load the package, or its golden samples give other outputs there.
            Unavailable: the cluster had no room for a replica, or the server is stopping.
        """
        with self._lock:
            self._connect()
            self._number += 1
            app = f"{self._name}-{self._number}"
        import ray

        threads = threads or 1
        most = self._options.replicas or most_replicas(int(ray.cluster_resources().get("CPU", 1)), threads)
        try:
            ray.get(self._keeper.keep.remote(app, portable(package)))
            handle = self._handles[app] = self._deploy(package, app, threads, most)
            provider, choice = handle.describe.remote().result(timeout_s=ANSWER_SECONDS)
        except BaseException:
            self._remove(app)
            raise
        _log.info("model_deployed", model=package.manifest.name, app=app, most_replicas=most)
        return RemoteModel(package, app, handle.infer, provider), _several(choice, most)

    def remove(self, model: RemoteModel) -> None:
        """End a model's replicas; its requests must have been answered. Blocks."""
        self._remove(model.app)

    def close(self) -> None:
        """End all replicas of this server, and the cluster if it was started for it. Blocks."""
        self._closing = True
        with self._lock:
            if self._keeper is None:
                return
            import ray

            for app in sorted(self._handles):
                self._remove(app)
            ray.shutdown()
            self._keeper = None

    def _connect(self) -> None:
        if self._closing:
            raise Unavailable("this server is stopping; it loads no model any more.")
        if self._keeper is not None:
            return
        address = self._options.address or os.environ.get("RAY_ADDRESS")
        self._own = address is None
        _prepare_environment(own=self._own)
        import ray
        from ray import serve
        from ray.exceptions import RayError

        quiet: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self._own:
                cpus = runtime.default_threads()
                ray.init("local", include_dashboard=False, num_cpus=cpus, object_store_memory=_OBJECT_STORE, **quiet)
            else:
                ray.init(address, **quiet)
        except (ConnectionError, RayError, RuntimeError, ValueError) as error:
            what = "no Ray cluster could be started here" if self._own else f"--ray-address {address}"
            raise BadInput(f"{what}: {_last_line(str(error))}") from error
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        self._keeper = _start_keeper(self._name)
        _sweep(self._name)

    def _deploy(self, package: Package, app: str, threads: int, most: int) -> Any:
        from ray import serve

        deployment = serve.deployment(
            Replica,
            name=package.manifest.name,
            max_ongoing_requests=IN_FLIGHT,
            ray_actor_options={"num_cpus": threads},
            health_check_period_s=_CHECK_SECONDS,
            health_check_timeout_s=_CHECK_TIMEOUT,
            graceful_shutdown_timeout_s=5,
            graceful_shutdown_wait_loop_s=0.5,
            autoscaling_config={
                "min_replicas": 1,
                "max_replicas": most,
                "target_ongoing_requests": _WANTED_IN_FLIGHT,
                "upscale_delay_s": 3,
                "downscale_delay_s": 60,
                "look_back_period_s": 12,
            },
        )
        target = serve.RunTarget(deployment.bind(self._name, app, threads), name=app, route_prefix=None)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        self._wait(app, package)
        # By value: arrays go straight to the replica, which takes a third less time than through the object store.
        return serve.get_app_handle(app).options(_by_reference=False)

    def _wait(self, app: str, package: Package) -> None:
        """Return once the first replica is there."""
        from ray import serve

        until = time.monotonic() + DEPLOY_SECONDS
        while True:
            found = serve.status().applications.get(app)
            status = "" if found is None else str(found.status.value)
            if status == "RUNNING":
                return
            if found is not None and status in ("DEPLOY_FAILED", "UNHEALTHY"):
                told = " ".join([found.message, *(each.message for each in found.deployments.values())])
                raise PackageRefused(_refusal(told, package))
            if self._closing:
                raise Unavailable("this server is stopping; it loads no model any more.")
            if time.monotonic() > until:
                raise Unavailable(
                    f"the cluster had no room for a replica of model {package.manifest.name} in "
                    f"{DEPLOY_SECONDS:.0f} s; add a node, or lower --ray-replicas."
                )
            time.sleep(0.1)

    def _remove(self, app: str) -> None:
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        handle = self._handles.pop(app, None)
        with contextlib.suppress(RayError, RayServeException):  # the cluster may be gone, and all with it
            if handle is not None:
                handle.shutdown()
            serve.delete(app, _blocking=False)
            self._keeper.drop.remote(app)


def most_replicas(cpus: int, threads: int) -> int:
    """Replicas of one model that a cluster may hold: on all CPUs but one replica's share, in which a new version can
    start beside the old one; two at least where there is room for two."""
    room = max(1, cpus // threads)
    return max(room - 1, min(room, 2))


def _several(choice: Choice, most: int) -> ClusterChoice:
    """One replica's measurement, for all that there may be."""
    measured = asdict(choice) | {"workers": IN_FLIGHT * most, "per_second": round(choice.per_second * most, 1)}
    return ClusterChoice(**measured, most_replicas=most)


def _prepare_environment(*, own: bool) -> None:
    """Before Ray is imported, which reads these once; the processes that it starts inherit them.

    Ray tells its makers nothing. A cluster of our own listens on this machine's loopback address alone, which on Linux
    takes the variable with the strange name, and asks for a token that lives in this process and its children.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call that comes too late must not start a cluster of its own
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if own:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _start_keeper(name: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"name": name, "num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(Keeper).options(**options).remote()


def _sweep(name: str) -> None:
    """Delete what servers left behind that were killed before they could."""
    import ray
    from ray import serve

    for app in serve.status().applications:
        owner = app.rpartition("-")[0]
        if not app.startswith(_PREFIX) or owner == name:
            continue
        try:
            ray.get_actor(owner, NAMESPACE)
        except ValueError:
            _log.warning("replicas_left_behind", app=app)
            serve.delete(app, _blocking=False)


def _refusal(told: str, package: Package) -> str:
    """The sentence in what Ray says about a replica that could not start, which has our error's traceback in it."""
    found = re.search(r"(?:PackageRefused|BadInput|HaechiError): (.+)", told)
    if found:
        return found.group(1).strip()
    return f"{package.path} could not be deployed: {_last_line(told)}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[-1].strip()[:300]
