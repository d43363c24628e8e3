"""What runs on the nodes of a Ray cluster: replicas that compute a model, and the keeper that gives them its package.

Ray starts these classes in processes of its own; every node needs the same Haechi installed. See `cluster.py`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.package import Package
from shared.serving.tensors import Array

if TYPE_CHECKING:
    from shared.serving.tuning import Choice

NAMESPACE = "haechi"
"""Where keepers have their names on a cluster."""
GOLDEN_SECONDS = 15.0
"""How often a replica replays its golden samples."""


class Keeper:
    """Holds the packages of one server for as long as that server lives; replicas ask for them when they start.

    It runs on the server's own machine and ends with the server's process, however that ends. Its absence tells the
    next server that this one's replicas are nobody's any more.
    """

    def __init__(self) -> None:
        self._packages: dict[str, Package] = {}

    def keep(self, key: str, package: Package) -> None:
        self._packages[key] = package

    def give(self, key: str) -> Package:
        return self._packages[key]

    def drop(self, key: str) -> None:
        self._packages.pop(key, None)


def portable(package: Package) -> Package:
    """The same package in a form that can be sent to another process."""
    return replace(package, files=dict(package.files))


class Replica:
    """One loaded model in a process of its own. It computes one inference, or one batch, at a time.

    Args:
        keeper: name of the keeper that has the package.
        key: of the package, there.
        threads: for one inference.

    Raises:
        PackageRefused: the package cannot be loaded on this node, or its golden samples give other outputs.
    """

    def __init__(self, keeper: str, key: str, threads: int) -> None:
        os.environ["HAECHI_THREADS"] = str(threads)  # what Ray has set aside for this process
        import ray

        from shared.serving import tuning

        package: Package = ray.get(ray.get_actor(keeper, NAMESPACE).give.remote(key))
        self._model, self._choice = tuning.load(package, threads)
        self._worker = ThreadPoolExecutor(1, "haechi-replica")
        self._passed = time.monotonic()

    def describe(self) -> tuple[str, Choice]:
        """Its provider by ONNX Runtime's name, and what was measured on this node."""
        return self._model.provider, self._choice

    async def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; errors as `Model.run` has them."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._model.run, inputs)

    async def check_health(self) -> None:
        """Called by Ray every few seconds; a replica for which it raises, or that does not answer, is replaced."""
        if time.monotonic() - self._passed < GOLDEN_SECONDS:
            return
        from shared import runtime

        await asyncio.get_running_loop().run_in_executor(self._worker, runtime.replay_golden, self._model)
        self._passed = time.monotonic()
