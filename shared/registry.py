"""The local store of model packages: immutable versions 1, 2, 3… and aliases that say which one serves.

    <root>/lock                                 taken by whoever writes (flock: the kernel frees it when a process dies)
    <root>/packages/<name>/versions/<n>/        the package, as `shared.package` wrote it; never changed afterwards
    <root>/packages/<name>/state.json           versions, aliases, earlier champions; replaced in one rename
    <root>/packages/<name>/audit.jsonl          one line for each change: who, when, what

Protocol: under the lock, first the package folder is moved into place, then `state.json` is replaced: that rename is
the one moment at which a change happens. A process killed before it leaves a folder that no state lists, which the next
`add` clears away; one killed after it leaves at most an audit line unwritten, which `state.json` also carries and the
next change writes. Readers take no lock.
"""

from __future__ import annotations

import contextlib
import difflib
import getpass
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from shared import files, runtime, settings
from shared.errors import BadInput, HaechiError, PackageRefused
from shared.package import MANIFEST, SIGNATURE, Package, open_package, store_files

CHAMPION = "champion"
CHALLENGER = "challenger"
LOCK_SECONDS = 30.0
"""How long to wait for another process before giving up."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class _Stored(BaseModel):
    """What `state.json` says of one version, so that listing reads no packages."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    content: str
    """SHA-256 over manifest and signature: the identity of what was added."""
    package_version: str
    task: str
    metric: str
    metrics: dict[str, float]
    size: int
    signed_by: str | None
    added: str


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    versions: dict[int, _Stored] = {}
    aliases: dict[str, int] = {}
    champions: list[int] = []
    """Earlier champions, oldest first; `rollback` takes the last."""
    audit: list[dict[str, Any]] = []
    """The audit lines of the last change, until the next one: see the protocol above."""


@dataclass(frozen=True)
class Version:
    """One version of one package in the registry."""

    name: str
    version: int
    path: Path
    """Folder of the package."""
    fingerprint: str
    """SHA-256 of its manifest."""
    package_version: str
    """The version its maker gave it, in the manifest."""
    task: str
    metric: str
    """Name of its headline metric, or empty."""
    metrics: dict[str, float]
    size: int
    """Bytes."""
    signed_by: str | None
    """Id of the trusted key that had signed it when it was added."""
    added: str
    """ISO 8601, UTC."""
    aliases: tuple[str, ...]

    @property
    def reference(self) -> str:
        """`name@version`, as `Registry.get` takes it."""
        return f"{self.name}@{self.version}"


# Named here, because `Registry.list` hides the builtin inside its class.
Names = list[str]
Versions = list[Version]
AuditLines = list[dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """An alias that moved. `before` and `after` are versions; None means the alias did not or does not exist."""

    name: str
    alias: str
    before: int | None
    after: int | None


class Registry:
    """The store in one folder. Any number of processes and threads may use it at once.

    Args:
        root: the folder; None takes the setting (`<home>/registry`). It is made when the first package is added.
        who: name for the audit lines; None takes the name of the user who runs this process.
    """

    def __init__(self, root: Path | None = None, *, who: str | None = None) -> None:
        self.root = Path(root) if root is not None else settings.load().registry
        self._who = who or _user()

    def add(self, package_path: Path | str, *, alias: str | None = None) -> Version:
        """Verify a package fully (hashes, signature, self-test) and store it as the next version of its name.

        Content that is stored already is not stored again: its existing version is returned.

        Args:
            package_path: folder or zip.
            alias: point this alias at it in the same step.

        Raises:
            PackageRefused: the package fails a check.
            BadInput: the alias is not a possible name.
            HaechiError: the registry is locked for too long or cannot be written.
        """
        if alias is not None:
            _check_alias(alias)
        package = open_package(package_path)
        runtime.load(package, "cpu", warm_up=False)
        name = package.manifest.name
        content = _identity(package)
        with self._locked(name) as state:
            known = next((number for number, stored in state.versions.items() if stored.content == content), None)
            number = max(state.versions, default=0) + 1 if known is None else known
            if known is None:
                self._sweep(name, state)
                store_files(self._folder(name, number), package.files)
                state.versions[number] = _describe(package, content)
                self._note(state, "add", name, number, {"from": str(package_path), "fingerprint": package.fingerprint})
            else:
                self._heal(self._folder(name, number), package)
            if alias is not None:
                self._point(state, name, alias, number)
        return self._version(name, number, state)

    def list(self, name: str | None = None) -> Versions:
        """Every version of every package, or of the one called `name`; by name, then version.

        Raises:
            BadInput: there is no package of that name.
        """
        states = {each: self._read(each) for each in self._names()} if name is None else {name: self._existing(name)}
        return [
            self._version(each, number, state) for each, state in states.items() for number in sorted(state.versions)
        ]

    def resolve(self, reference: str) -> Version:
        """The version that `name@3`, `name@champion` or `name` (the champion, else the newest) stands for.

        Raises:
            BadInput: no such package, version or alias; the sentence lists those there are.
        """
        name, _, selector = reference.partition("@")
        state = self._existing(name)
        if selector.isdecimal() and len(selector) < 10:
            number = int(selector)
        elif selector or reference.endswith("@"):
            if selector not in state.aliases:
                have = ", ".join(f"{alias} (version {number})" for alias, number in state.aliases.items())
                raise BadInput(f"package {name} has no alias {selector!r}; it has: {have or 'none'}.")
            number = state.aliases[selector]
        else:
            number = state.aliases.get(CHAMPION, max(state.versions))
        _check_version(state, name, number)
        return self._version(name, number, state)

    def get(self, reference: str) -> Path:
        """The package folder that a reference (see `resolve`) stands for. Load it with `shared.runtime.load`.

        Raises:
            BadInput: no such package, version or alias.
            HaechiError: the registry lists it and its folder is gone.
        """
        version = self.resolve(reference)
        if not version.path.is_dir():
            raise HaechiError(f"{version.reference} is missing from {version.path}; add the same package again.")
        return version.path

    def promote(self, name: str, version: int) -> Change:
        """Make a version the champion. The old champion is remembered for `rollback`.

        The alias challenger is removed if it was this version: it has won.

        Raises:
            BadInput: no such package or version.
            PackageRefused: the stored package is damaged, or not signed by a key that is trusted by now.
        """
        return self.set_alias(name, CHAMPION, version)

    def set_alias(self, name: str, alias: str, version: int | None) -> Change:
        """Point an alias at a version; None removes the alias. `champion` is promoted, never removed.

        Raises:
            BadInput: no such package or version, or not a possible alias.
            PackageRefused: as for `promote`, where the alias is `champion`.
        """
        _check_alias(alias)
        if alias == CHAMPION and version is None:
            raise BadInput(f"the champion of {name} cannot be removed; promote another version instead.")
        self._existing(name)
        with self._locked(name) as state:
            if version is not None:
                _check_version(state, name, version)
            if version is not None and alias == CHAMPION:
                open_package(self._folder(name, version))
            return self._point(state, name, alias, version)

    def rollback(self, name: str) -> Change:
        """Make the previous champion the champion again. Calling it once more goes one further back.

        Raises:
            BadInput: no such package, or no earlier champion.
            PackageRefused: as for `promote`.
        """
        self._existing(name)
        with self._locked(name) as state:
            if not state.champions:
                raise BadInput(
                    f"package {name} has no earlier champion to go back to; promote a version by its number."
                )
            before = state.aliases.get(CHAMPION)
            after = state.champions.pop()
            open_package(self._folder(name, after))
            state.aliases[CHAMPION] = after
            self._note(state, "rollback", name, after, {"alias": CHAMPION, "before": before})
            return Change(name, CHAMPION, before, after)

    def aliases(self, name: str) -> dict[str, int]:
        """The aliases of a package and the versions they point at.

        Raises:
            BadInput: no such package.
        """
        return dict(self._existing(name).aliases)

    def audit(self, name: str) -> AuditLines:
        """Every change of a package, oldest first: id, time, who, action, package, version, details.

        Raises:
            BadInput: no such package.
        """
        state = self._existing(name)
        lines = _audit_lines(self._home(name) / "audit.jsonl")
        written = {line["id"] for line in lines}
        return lines + [line for line in state.audit if line["id"] not in written]

    def _home(self, name: str) -> Path:
        return self.root / "packages" / name

    def _folder(self, name: str, number: int) -> Path:
        return self._home(name) / "versions" / str(number)

    def _names(self) -> Names:
        home = self.root / "packages"
        names = os.listdir(home) if home.is_dir() else []
        return sorted(name for name in names if (home / name / "state.json").is_file())

    def _existing(self, name: str) -> _State:
        state = self._read(name) if _NAME.fullmatch(name) else _State()
        if not state.versions:
            names = self._names()
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it has: {', '.join(names) or 'none'}."
            raise BadInput(f"registry {self.root} has no package {name!r}; {hint}")
        return state

    def _read(self, name: str) -> _State:
        path = self._home(name) / "state.json"
        try:
            return _State.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return _State()
        except OSError as error:
            raise HaechiError(f"{path} could not be read: {error.strerror or error}.") from error
        except ValidationError as error:
            raise HaechiError(f"{path} is damaged or of a newer Haechi; restore it from a backup or update.") from error

    def _version(self, name: str, number: int, state: _State) -> Version:
        stored = state.versions[number]
        aliases = tuple(sorted(alias for alias, target in state.aliases.items() if target == number))
        values = stored.model_dump(exclude={"content"})
        return Version(name=name, version=number, path=self._folder(name, number), aliases=aliases, **values)

    def _point(self, state: _State, name: str, alias: str, number: int | None) -> Change:
        before = state.aliases.get(alias)
        if before == number:
            return Change(name, alias, before, number)
        if number is None:
            del state.aliases[alias]
        else:
            state.aliases[alias] = number
        if alias == CHAMPION:
            if before is not None:
                state.champions.append(before)
            if state.aliases.get(CHALLENGER) == number:
                del state.aliases[CHALLENGER]
        action = "promote" if alias == CHAMPION else "alias"
        self._note(state, action, name, number, {"alias": alias, "before": before})
        return Change(name, alias, before, number)

    def _note(self, state: _State, action: str, name: str, version: int | None, details: dict[str, Any]) -> None:
        line = {"id": secrets.token_hex(8), "time": _now(), "who": self._who, "action": action, "package": name}
        state.audit.append({**line, "version": version, "details": details})

    def _sweep(self, name: str, state: _State) -> None:
        """Clear away what killed processes left. Only ever called under the lock, so nobody is still writing it."""
        versions = self._folder(name, 0).parent
        for folder in (self._home(name), versions):
            for left in folder.glob(f"{files.TEMPORARY_PREFIX}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        for left in versions.glob("*"):
            if not (left.name.isdecimal() and int(left.name) in state.versions):
                shutil.rmtree(left)

    @staticmethod
    def _heal(folder: Path, package: Package) -> None:
        """Adding the same content again repairs a stored copy that was lost or damaged."""
        try:
            open_package(folder, public_keys=[])
        except PackageRefused:
            store_files(folder, package.files, replace=True)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[_State]:
        """The state of a package, to be changed in the block; it is committed when the block ends well."""
        with _lock(self.root / "lock"):
            state = self._read(name)
            log = self._home(name) / "audit.jsonl"
            _append_audit(log, state.audit)
            state.audit = []
            before = state.model_copy(deep=True)
            yield state
            if state != before:
                files.write_text(self._home(name) / "state.json", state.model_dump_json(indent=2) + "\n")
                _append_audit(log, state.audit)


def locate(package: str, registry: Registry | None = None) -> Path:
    """The package that a person means: a path if there is one of that name, else a registry reference (`name@3`).

    Raises:
        BadInput: neither a path nor in the registry.
    """
    if Path(package).exists():
        return Path(package)
    if not _NAME.fullmatch(package.partition("@")[0]):
        raise BadInput(f"{package} is not there; give a package folder, a zip, or a name in the registry.")
    try:
        return (registry or Registry()).get(package)
    except BadInput as error:
        raise BadInput(f"{package} is not a file or folder, and {error}") from error


def _identity(package: Package) -> str:
    """Manifest and signature: the same content newly signed is worth storing again, its old copy would be refused."""
    return hashlib.sha256(package.files[MANIFEST] + b"\0" + package.files.get(SIGNATURE, b"")).hexdigest()


def _describe(package: Package, content: str) -> _Stored:
    manifest = package.manifest
    return _Stored(
        fingerprint=package.fingerprint,
        content=content,
        package_version=manifest.version,
        task=manifest.task,
        metric=manifest.metric,
        metrics=manifest.metrics,
        size=package.size,
        signed_by=package.signed_by,
        added=_now(),
    )


def _check_alias(alias: str) -> None:
    if not _ALIAS.fullmatch(alias):
        raise BadInput(f"alias {alias!r} must be lower-case letters, digits, - and _, and begin with a letter.")


def _check_version(state: _State, name: str, number: int) -> None:
    if number not in state.versions:
        have = ", ".join(str(each) for each in sorted(state.versions))
        raise BadInput(f"package {name} has no version {number}; it has: {have}.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


@contextlib.contextmanager
def _lock(path: Path, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock file, waiting up to `seconds` (default `LOCK_SECONDS`) for whoever has it."""
    import fcntl  # POSIX only, like the registry's writers; reading works everywhere

    deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HaechiError(f"registry {path.parent} cannot be written: {error.strerror or error}.") from error
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise HaechiError(
                        f"registry {path.parent} is in use by another process (id {holder}); try again when it is done."
                    ) from None
                time.sleep(0.01)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        # Closing alone would leave the lock to a child that was forked meanwhile and inherited the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _audit_lines(path: Path) -> list[dict[str, Any]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = content[: content.rfind(b"\n") + 1]  # a process killed while writing leaves at most a piece of a last line
    return [json.loads(line) for line in whole.splitlines()]


def _append_audit(path: Path, lines: list[dict[str, Any]]) -> None:
    """Append those of `lines` that the file does not hold yet. Only ever called under the lock."""
    if not lines:
        return
    written = {line["id"] for line in _audit_lines(path)}
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines if line["id"] not in written)
    if not text:
        return
    try:
        with path.open("ab") as handle:
            content = path.read_bytes()
            handle.truncate(content.rfind(b"\n") + 1)
            handle.write(text.encode("utf-8"))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise HaechiError(f"{path} could not be written: {error.strerror or error}; free space.") from error
