"""A program that imports everything which must run without training libraries, and prints the modules' names as JSON.

    python -P tests/run_time_side.py [BLOCKED ...]

Each BLOCKED name is made impossible to import, as if it were not installed. `-P` keeps this folder off the path.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys

FOLDERS = ("shared", "edge", "solutions", "data_tools")
TRAINING_ROOMS = ("shared.training", "shared.compression", "shared.trust")
EXTRAS = {"shared.serving.rpc.": "grpc", "solutions.cctv.": "supervision"}
"""Rooms that nothing enters unless an extra's library, here by its name, is installed."""


class Block:
    """An import hook that knows nothing of the names it is given."""

    def __init__(self, names: list[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)


def on_the_training_side(name: str) -> bool:
    return name.endswith(".training") or any(name == room or name.startswith(room + ".") for room in TRAINING_ROOMS)


def installed(library: str) -> bool:
    try:
        importlib.import_module(library)
    except ImportError:
        return False
    return True


def main() -> None:
    sys.meta_path.insert(0, Block(sys.argv[1:]))  # type: ignore[arg-type]
    imported = []
    for folder in FOLDERS:
        package = importlib.import_module(folder)
        for module in pkgutil.walk_packages(package.__path__, folder + "."):
            # alembic alone can run env.py: it needs alembic's context around it.
            if on_the_training_side(module.name) or module.name.endswith("migrations.env"):
                continue
            if any(module.name.startswith(room) and not installed(library) for room, library in EXTRAS.items()):
                continue
            importlib.import_module(module.name)
            imported.append(module.name)
    print(json.dumps(imported))


if __name__ == "__main__":
    main()
