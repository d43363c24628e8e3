"""Keys, one-time links and console sessions: kept as hashes in one file, `<home>/keys.json`.

A credential is a token `hk_<id>_<secret>` (key), `hl_…` (one-time link) or `hs_…` (session). The file holds its id and
the SHA-256 of the whole token; a slow hash would add nothing, since the secrets are 256 random bits and cannot be
guessed. The file is replaced atomically under a lock file, is readable by its owner alone (0600), and is read again
whenever it changes, so that a key created or revoked by another process counts at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import BadInput, HaechiError
from shared.files import TEMPORARY_PREFIX

Role = Literal["viewer", "operator", "engineer", "admin"]
"""viewer reads; operator also sends parts and reviews; engineer also changes models; admin also manages keys."""
ROLES: tuple[Role, ...] = get_args(Role)
Kind = Literal["key", "link", "session"]

KEYS_FILE = "keys.json"
"""Its name in the home folder."""
LINK_SECONDS = 15 * 60
SESSION_SECONDS = 12 * 3600
_PREFIXES: dict[Kind, str] = {"key": "hk", "link": "hl", "session": "hs"}
_LOCK_SECONDS = 10.0
_MAX_TOKEN = 200


@dataclass(frozen=True)
class Principal:
    """Who sent a request."""

    name: str
    role: Role
    kind: Literal["key", "link", "session", "local"]
    """How they proved it; `local` when the server runs with `--no-auth`."""
    id: str = ""
    """Id of the credential, which is no secret."""

    def may(self, role: Role) -> bool:
        """True if this one has `role` or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Credential(BaseModel):
    """One entry of keys.json."""

    model_config = ConfigDict(extra="forbid")

    id: str
    kind: Kind
    name: str
    role: Role
    hash: str
    """SHA-256 of the token, in hex."""
    created: float
    """Seconds since 1970, UTC; so are the next two."""
    expires: float | None = None
    revoked: float | None = None
    parent: str = ""
    """Id of the key that a session was begun with: it ends with its key."""

    def valid(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)

    def state(self, now: float) -> Literal["valid", "expired", "revoked"]:
        """In one word."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.valid(now) else "expired"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    credentials: list[Credential] = []


def check_role(role: str) -> Role:
    """`role` if it is one of `ROLES`, else BadInput."""
    for known in ROLES:
        if role == known:
            return known
    raise BadInput(f"role {role[:40]} is unknown; use one of {', '.join(ROLES)}.")


def parse_name_and_role(text: str) -> tuple[str, Role]:
    """`NAME:ROLE` as in `--create-key line3:operator`."""
    name, separator, role = text.rpartition(":")
    if not separator or not name:
        raise BadInput(f"--create-key {text[:60]}: write NAME:ROLE, such as line3:operator.")
    return name, check_role(role)


class KeyStore:
    """The credentials in one file. Safe from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = os.fspath(path)
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._known: dict[str, Credential] = {}

    def create(self, name: str, role: Role, *, kind: Kind = "key", seconds: float | None = None) -> str:
        """Make a credential and return its token, which is not kept and cannot be shown again.

        Args:
            name: whose it is, 1 to 64 printable characters; several credentials may share a name.
            role: see `Role`.
            kind: key, link or session.
            seconds: how long it is valid; None for ever.

        Raises:
            BadInput: the name is empty, too long or holds control characters.
            HaechiError: the file cannot be read or written.
        """
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise BadInput("a key's name must be 1 to 64 printable characters.")
        with self._change() as credentials:
            credential, token = _make(name, check_role(role), kind, seconds)
            credentials.append(credential)
        return token

    def begin_session(self, token: str) -> tuple[Principal, str] | None:
        """A session for the holder of a key: its principal and its token. None if the key is not valid.

        It lasts `SESSION_SECONDS`, ends with the key at the latest, and is revoked with it.
        """
        principal = self.verify(token, "key")
        if principal is None:
            return None
        with self._change() as credentials:
            key = next((entry for entry in credentials if entry.id == principal.id), None)
            if key is None or not key.valid(now := time.time()):
                return None  # revoked meanwhile
            seconds = SESSION_SECONDS if key.expires is None else min(SESSION_SECONDS, key.expires - now)
            session, session_token = _make(key.name, key.role, "session", seconds, parent=key.id)
            credentials.append(session)
        return Principal(session.name, session.role, "session", session.id), session_token

    def verify(self, token: str, kind: Kind) -> Principal | None:
        """Who `token` belongs to, or None if it is unknown, expired, revoked or of another kind.

        Raises:
            HaechiError: the file has become unreadable.
        """
        identity = _id_of(token, kind)
        if identity is None:
            return None
        credential = self._current().get(identity)
        return _principal(credential, token, kind)

    def redeem(self, token: str) -> tuple[Principal, str] | None:
        """Turn a one-time link into a session: its principal and its token. None if the link is not valid."""
        identity = _id_of(token, "link")
        if identity is None or _principal(self._current().get(identity), token, "link") is None:
            return None  # strangers' guesses never take the lock
        with self._change() as credentials:
            link = next((entry for entry in credentials if entry.id == identity), None)
            if link is None or _principal(link, token, "link") is None:
                return None
            credentials.remove(link)
            session, session_token = _make(link.name, link.role, "session", SESSION_SECONDS)
            credentials.append(session)
        return Principal(session.name, session.role, "session", session.id), session_token

    def revoke(self, name_or_id: str) -> int:
        """Revoke every key with this id or name, and end its sessions; the number of credentials that ended."""
        now = time.time()
        with self._change() as credentials:
            hit = [c for c in credentials if name_or_id in (c.id, c.name, c.parent or c.id) and c.valid(now)]
            for credential in hit:
                credential.revoked = now
        return len(hit)

    def all_keys(self) -> list[Credential]:
        """All keys, revoked ones too, oldest first."""
        return sorted((c for c in self._current().values() if c.kind == "key"), key=lambda c: c.created)

    def _current(self) -> dict[str, Credential]:
        with self._lock:
            try:
                status = os.stat(self._name)
            except FileNotFoundError:
                self._known, self._stamp = {}, None
                return self._known
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._known = {entry.id: entry for entry in self._read()}
                self._stamp = stamp
            return self._known

    def _read(self) -> list[Credential]:
        try:
            text = self.path.read_bytes()
            return _File.model_validate_json(text).credentials
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            words = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise HaechiError(f"{self.path} cannot be read: {words}; restore it, or remove it to begin anew.") from None

    @contextlib.contextmanager
    def _change(self) -> Iterator[list[Credential]]:
        """The credentials, to be changed in place; written when the block ends well. Ended links and sessions go."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HaechiError(f"{self.path.parent} could not be made: {error.strerror}; set HAECHI_HOME.") from error
        with _locked(self.path.with_name(self.path.name + ".lock")):
            credentials = self._read()
            yield credentials
            now = time.time()
            kept = [c for c in credentials if c.kind == "key" or c.valid(now)]
            _write_private(self.path, _File(credentials=kept).model_dump_json(indent=2).encode())


def id_of(token: str) -> str:
    """The id in a token, which is no secret."""
    return token[:_MAX_TOKEN].partition("_")[2].partition("_")[0]


def _make(name: str, role: Role, kind: Kind, seconds: float | None, parent: str = "") -> tuple[Credential, str]:
    identity = secrets.token_hex(6)
    token = f"{_PREFIXES[kind]}_{identity}_{secrets.token_urlsafe(32)}"
    now = time.time()
    expires = None if seconds is None else now + seconds
    credential = Credential(
        id=identity,
        kind=kind,
        name=name,
        role=role,
        hash=_hash(token),
        created=now,
        expires=expires,
        parent=parent,
    )
    return credential, token


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _id_of(token: str, kind: Kind) -> str | None:
    return id_of(token) if token.startswith(_PREFIXES[kind] + "_") else None


def _principal(credential: Credential | None, token: str, kind: Kind) -> Principal | None:
    if credential is None or credential.kind != kind or not credential.valid(time.time()):
        return None
    if not hmac.compare_digest(credential.hash, _hash(token)):
        return None
    return Principal(credential.name, credential.role, kind, credential.id)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes respect. The lock file stays; removing it would let two holders in."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise HaechiError(f"{path} could not be written: {error.strerror}; mend its permissions.") from error
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise HaechiError(f"{path} is held by another process; try again, or stop that process.")
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)  # which releases the lock


def _try_lock(descriptor: int) -> bool:
    if os.name == "nt":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_private(path: Path, content: bytes) -> None:
    """Like `shared.files.write_bytes`, for the owner's eyes alone from the first byte on."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        words = error.strerror or error
        raise HaechiError(f"{path} could not be written: {words}; free space or mend its permissions.") from error
