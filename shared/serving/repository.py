"""Bringing models in and out while the server answers: load, swap, unload, and following the registry.

A swap starts the new model beside the old one, golden self-test included; only then do new requests find it. The old
one finishes what it has admitted and what is on its way to it, and ends. A new model that cannot be started changes
nothing: the old one goes on. Everything here runs in the server's event loop, one change at a time.

Names follow Triton's repository extension:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.errors import BadInput, HaechiError
from shared.log import get_logger
from shared.package import Package
from shared.serving import discover
from shared.serving.errors import NotFound, Unavailable
from shared.serving.models import ServedModel

if TYPE_CHECKING:
    from shared.serving.state import ServerState

GRACE_SECONDS = 2.0
"""How long a replaced model still admits requests: those whose handlers had found it before the swap."""
DRAIN_SECONDS = 60.0
"""How long unloading waits for what was admitted; what is computed then still ends, without being waited for."""
WATCH_SECONDS = 1.0
"""How often the registry is looked at; when nothing has changed, that is one `stat` for each of its packages."""

_log = get_logger(__name__)


class Repository:
    """What the server may serve, beside what it serves now.

    Args:
        state: of the server; its models are changed here and by `add_model` alone.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._sources = discover.Sources.of(state.options, state.settings)
        self._changing = asyncio.Lock()
        self._unloaded: dict[str, dict[str, str]] = {}
        """Why each version of an unloaded model cannot be used."""
        self._retiring: dict[ServedModel, asyncio.Task[None]] = {}
        self.started = asyncio.Event()
        """Set once all models that were added before the server started are ready, or cannot be."""
        self._done: dict[str, int] = {}
        """Number of the last order that was followed, by model; see `agreement.py`."""

    async def run(self) -> None:
        """Start the models that were added before the server started, then follow the registry until cancelled."""
        try:
            await self._start_all()
        finally:
            self.started.set()
        await self._watch()

    async def stop(self, seconds: float) -> None:
        """Let the workers of all models, replaced ones too, finish what they have; `seconds` at most."""
        deadline = time.monotonic() + seconds
        for task in self._retiring.values():
            task.cancel()
        for served in [*self._state.every_version(), *self._retiring]:
            served.close()
            if not await asyncio.to_thread(served.queue.join, max(0.0, deadline - time.monotonic())):
                _log.warning("worker_still_computing", model=served.name, version=served.version)
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)

    def check_loaded(self, name: str) -> None:
        """Raise `Unavailable` if this model was unloaded."""
        if name in self._unloaded:
            raise Unavailable(f"model {name} has been unloaded; load it again, or send the request elsewhere.")

    async def index(self, ready: bool = False) -> list[dict[str, str]]:
        """Triton's repository index: name, version, state and reason of every model there is.

        Args:
            ready: only those that answer.
        """
        rows = [
            _row(served.name, served.version, _state_of(served), served.trouble())
            for served in self._state.every_version()
        ]
        for name, versions in self._unloaded.items():
            rows += [_row(name, version, "UNAVAILABLE", reason) for version, reason in versions.items()]
        known = {row["name"] for row in rows}
        new = await asyncio.to_thread(self._sources.names)
        rows += [{"name": name} for name in sorted(new - known)]
        return [row for row in rows if not ready or row.get("state") == "READY"]

    async def load(self, name: str, who: str) -> None:
        """Serve what the registry's champion or the packages named at the start hold under this name now.

        Versions that have not changed are left as they are, those that are there no more end, and all others are
        started before the first request finds one of them.

        Raises:
            NotFound: there is no such package.
            BadInput: a package cannot be used; what is served stays as it was.
            Unavailable: the server is stopping.
        """
        async with self._changing:
            versions = await self._bring(name)
        await self._order(name, load=True)
        await self._state.audit(who, "load_model", name, versions=versions)

    async def unload(self, name: str, who: str) -> None:
        """Refuse new requests for a model, answer those admitted, and free it.

        Raises:
            NotFound: there is no such model.
        """
        leaving = await self._leave(name)
        if leaving:
            await self._order(name, load=False)
            await self._state.audit(who, "unload_model", name, versions=[served.version for served in leaving])

    async def _leave(self, name: str) -> list[ServedModel]:
        """See `unload`; the versions there were, none if it was unloaded already."""
        async with self._changing:
            if name in self._unloaded:
                return []
            leaving = self._state.remove_model(name)
            self._unloaded[name] = {served.version: "unloading" for served in leaving}
            deadline = time.monotonic() + DRAIN_SECONDS
            for served in leaving:
                await self._end(served, max(0.0, deadline - time.monotonic()))
            self._unloaded[name] = {served.version: "unloaded" for served in leaving}
        return leaving

    async def _order(self, name: str, *, load: bool) -> None:
        """Let the other workers do the same; each of them looks every second."""
        agreement = self._state.agreement
        if agreement is not None:
            self._done[name] = await asyncio.to_thread(agreement.order, name, load=load)

    async def _obey(self) -> None:
        """Load and unload what another worker was asked to."""
        agreement = self._state.agreement
        if agreement is None:
            return
        for name, (number, load) in (await asyncio.to_thread(agreement.orders)).items():
            if number <= self._done.get(name, 0):
                continue
            self._done[name] = number
            try:
                if load:
                    async with self._changing:
                        await self._bring(name)
                else:
                    await self._leave(name)
            except HaechiError as error:
                _log.error("order_not_followed", model=name, load=load, error=str(error))

    async def _start_all(self) -> None:
        async with self._changing:
            for served in self._state.every_version():
                try:
                    await served.start()
                except Exception as error:
                    if self._state.draining:
                        return
                    _log.error("model_not_loaded", model=served.name, version=served.version, exc_info=error)
                    words = f"model {served.name} could not be loaded: {error}"
                    self._state.fail(error if isinstance(error, HaechiError) else HaechiError(words))

    async def _bring(self, name: str) -> list[str]:
        """See `load`. The lock is held."""
        try:
            packages = await asyncio.to_thread(self._sources.open, name)
        except HaechiError as error:
            raise BadInput(f"model {name} could not be loaded: {error}") from error
        if not packages:
            raise NotFound(f"there is no package {name[:64]} to load; POST /v2/repository/index lists what there is.")
        serving = self._state.versions.get(name, {})
        unchanged = {
            version: served
            for version, served in serving.items()
            if served.ready and any(_same(served, package, number) for package, number in packages)
        }
        started = await self._start_new(name, [pair for pair in packages if pair[1] not in unchanged])
        versions = {version: unchanged.get(version) or started[version] for _, version in packages}
        self._state.replace_model(name, versions)
        self._unloaded.pop(name, None)
        newest = self._state.models[name]
        for served in serving.values():
            if served not in versions.values():
                self._retire(served, versions.get(served.version, newest))
        _log.info("model_loaded", model=name, versions=list(versions), started=list(started))
        return list(versions)

    async def _start_new(self, name: str, packages: Sequence[tuple[Package, str]]) -> dict[str, ServedModel]:
        """Models that are ready, by version; none at all if one of them cannot be started."""
        state, started = self._state, list[ServedModel]()
        try:
            for package, version in packages:
                started.append(state.make_model(package, version))
                await started[-1].start()
            if state.draining:
                raise Unavailable("this server is stopping; it loads no model any more.")
        except BaseException as error:
            for served in started:
                await self._end(served, DRAIN_SECONDS)
            if isinstance(error, Exception) and not isinstance(error, Unavailable):
                raise BadInput(f"model {name} could not be loaded, and nothing was changed: {error}") from error
            raise
        return {served.version: served for served in started}

    def _retire(self, served: ServedModel, successor: ServedModel) -> None:
        served.successor = successor
        task = asyncio.create_task(self._finish(served))
        self._retiring[served] = task
        task.add_done_callback(lambda _: self._retiring.pop(served, None))

    async def _finish(self, served: ServedModel) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        await self._end(served, DRAIN_SECONDS)

    async def _end(self, served: ServedModel, seconds: float) -> None:
        served.close()
        if not await asyncio.to_thread(served.queue.join, seconds):
            _log.warning("worker_still_computing", model=served.name, version=served.version)
        await served.free()
        self._state.metrics.remove_model(served.metrics, served.pending)

    async def _watch(self) -> None:
        """Load each champion that is promoted. One that cannot be loaded is tried again when the registry changes."""
        seen: object = None
        while True:
            await self._obey()
            with contextlib.suppress(OSError):  # a network disk that is away for a while
                stamp = await asyncio.to_thread(self._sources.stamp) if self._sources.registry else None
                if stamp != seen and await self._follow():
                    seen = stamp
            await asyncio.sleep(WATCH_SECONDS)

    async def _follow(self) -> bool:
        """Load the champions that are not served yet; False if the registry could not be read."""
        try:
            champions = await asyncio.to_thread(self._sources.champions)
        except HaechiError as error:
            _log.warning("registry_not_read", error=str(error))
            return False
        for name, version in champions.items():
            # What an operator unloaded stays away until somebody loads it.
            if name in self._unloaded or version in self._state.versions.get(name, {}):
                continue
            try:
                await self.load(name, "registry")
            except HaechiError as error:
                _log.error("champion_not_loaded", model=name, version=version, error=str(error))
        return True


def _same(served: ServedModel, package: Package, version: str) -> bool:
    return served.version == version and served.package.fingerprint == package.fingerprint


def _state_of(served: ServedModel) -> str:
    if served.state == "loading":
        return "LOADING"
    return "READY" if served.ready else "UNAVAILABLE"


def _row(name: str, version: str, state: str, reason: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}
