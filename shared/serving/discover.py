"""Which packages to serve: those in given folders, and the registry's champions."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import BadInput
from shared.files import TEMPORARY_PREFIX
from shared.package import MANIFEST, Package, open_package
from shared.serving import encoded
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.serving.state import ServerOptions

ARCHIVES = frozenset({".zip", ".haechi"})
_MOST_MANIFEST_BYTES = 16 * 1024 * 1024


def find_packages(path: Path) -> list[Path]:
    """The packages at `path`: itself, if it is one, else those directly in this folder, by name.

    Raises:
        BadInput: there is nothing, or no package in it.
    """
    if not path.exists():
        raise BadInput(f"--packages {path}: there is no such file or folder.")
    if _is_package(path):
        return [path]
    if not path.is_dir():
        raise BadInput(f"--packages {path} is neither a package (folder or .zip) nor a folder of packages.")
    found = [entry for entry in sorted(path.iterdir()) if _is_package(entry)]
    if not found:
        raise BadInput(f"--packages {path} holds no package; make one with `haechi inspection train`.")
    return found


def open_all(paths: Sequence[Path], name: str | None = None) -> list[tuple[Package, str]]:
    """Open the packages in these places, each with the version it is served under; older versions first.

    Args:
        paths: packages, and folders of them.
        name: only those of this name; places that hold none are passed over then.

    Raises:
        BadInput: a place holds none, or two packages have the same name and version.
        PackageRefused: one of them fails verification.
    """
    places = [package for path in paths for package in find_packages(path)] if name is None else _named(paths, name)
    opened = [_open(place) for place in places]
    seen: dict[tuple[str, str], Path] = {}
    for package in opened:
        key = (package.manifest.name, package.manifest.version)
        if key in seen:
            raise BadInput(f"{package.path} and {seen[key]} are both {key[0]} {key[1]}; keep one of them.")
        seen[key] = package.path
    opened.sort(key=lambda package: _natural(package.manifest.version))
    return [(package, package.manifest.version) for package in opened]


def champions(settings: Settings, name: str | None = None) -> list[tuple[Package, str]]:
    """The champion of every package in the registry, with its number there as the version it is served under.

    Args:
        settings: say where the registry is.
        name: only the one of this name.

    Raises:
        PackageRefused: one of them fails verification.
    """
    from shared.registry import CHAMPION, Registry

    stored = [version for version in Registry(settings.registry).list() if CHAMPION in version.aliases]
    return [(_open(each.path), str(each.version)) for each in stored if name in (None, each.name)]


@dataclass(frozen=True)
class Sources:
    """The places that a server was started with, to be looked at again later. All of this blocks: it reads files."""

    packages: Sequence[Path]
    settings: Settings
    registry: bool
    """Whether the registry's champions are served."""

    @classmethod
    def of(cls, options: ServerOptions, settings: Settings) -> Sources:
        """Those that the options name; the registry alone if they name none."""
        registry = options.registry if options.registry is not None else not options.packages
        return cls(options.packages, settings, registry)

    def open(self, name: str) -> list[tuple[Package, str]]:
        """The packages of this name, as the server starts with them: its champion first, older versions first.

        Raises:
            BadInput: two of them have the same version.
            PackageRefused: one fails verification.
        """
        found = champions(self.settings, name) if self.registry else []
        found += open_all(self.packages, name)
        versions = [version for _, version in found]
        if len(set(versions)) < len(versions):
            raise BadInput(f"model {name}: the registry and --packages both hold one version; leave one out.")
        return found

    def names(self) -> set[str]:
        """Of all packages, usable or not."""
        names = {name for place in _places(self.packages) if (name := name_at(place)) is not None}
        return names | set(self.champions() if self.registry else ())

    def champions(self) -> dict[str, str]:
        """The version of each champion, by name."""
        from shared.registry import CHAMPION, Registry

        stored = Registry(self.settings.registry).list()
        return {each.name: str(each.version) for each in stored if CHAMPION in each.aliases}

    def stamp(self) -> frozenset[tuple[str, int, int, int]]:
        """Changes whenever anything in the registry does, which replaces a package's `state.json`."""
        found = set()
        for path in (self.settings.registry / "packages").glob("*/state.json"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.add((str(path), status.st_ino, status.st_mtime_ns, status.st_size))
        return frozenset(found)


def name_at(path: Path) -> str | None:
    """The name of the package at `path`, which is not verified; None if it cannot be read."""
    try:
        if path.is_dir():
            content = (path / MANIFEST).read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:  # a package may lie in a folder of its zip
                entry = min((each for each in archive.namelist() if Path(each).name == MANIFEST), key=len)
                content = archive.open(entry).read(_MOST_MANIFEST_BYTES)
        name = json.loads(content)["name"]
    # What damaged archives and damaged JSON raise.
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None
    return name if isinstance(name, str) else None


def _open(path: Path) -> Package:
    package = open_package(path)
    encoded.pictures(package.manifest)  # refused here, and not by the first request
    return package


def _places(paths: Sequence[Path]) -> list[Path]:
    """All packages in these places that can be reached now."""
    found: list[Path] = []
    for path in paths:
        with contextlib.suppress(BadInput):
            found += find_packages(path)
    return found


def _named(paths: Sequence[Path], name: str) -> list[Path]:
    return [place for place in _places(paths) if name_at(place) == name]


def _is_package(path: Path) -> bool:
    if path.name.startswith(TEMPORARY_PREFIX):
        return False
    if path.is_dir():
        return (path / MANIFEST).is_file()
    return path.is_file() and path.suffix.lower() in ARCHIVES


def _natural(version: str) -> list[tuple[int, int, str]]:
    """A sort key by which 1.10 comes after 1.9."""
    parts = re.findall(r"\d+|[^\d.]+", version)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
