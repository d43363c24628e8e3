"""Sealed values: personal data that an action needs later, kept in events so that only this server can read it.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce and the conversation's id as associated data, so that a sealed
value cannot be moved into another conversation. The key is a file of 32 bytes, `<home>/keys/conversations.key`, that
only its owner may read; servers that share a database must share it. Whoever deletes the key makes every sealed value
unreadable at once.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from shared import settings
from shared.errors import HaechiError

_VERSION = "1"
_NONCE = 12
_KEY = 32


class Vault:
    """Seals and opens values. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._key = key

    def derive(self, purpose: bytes) -> bytes:
        """A key of 32 bytes for another purpose, which tells nothing of this one (HKDF-Expand, RFC 5869)."""
        return HKDFExpand(hashes.SHA256(), _KEY, purpose).derive(self._key)

    @classmethod
    def of_home(cls, home: Path | None = None) -> Vault:
        """With the key of this machine's home folder, which is made if it is not there.

        Raises:
            HaechiError: the file is not a key, or can be read by others, or cannot be written.
        """
        path = (home or settings.load().home) / "keys" / "conversations.key"
        try:
            if not path.exists():
                _make(path)
            content = path.read_bytes()
            if os.name != "nt" and path.stat().st_mode & 0o077:
                raise HaechiError(f"{path} can be read by others than its owner; mend it with: chmod 600 {path}")
        except OSError as error:
            raise HaechiError(f"the key {path} cannot be used: {error.strerror or error}; check the folder.") from error
        if len(content) != _KEY:
            raise HaechiError(f"{path} has {len(content)} bytes, and a key has {_KEY}; restore it from a copy.")
        return cls(content)

    def seal(self, value: Any, conversation: str) -> str:
        """A JSON value as text that says nothing."""
        nonce = secrets.token_bytes(_NONCE)
        plain = json.dumps(value, ensure_ascii=False).encode("utf-8")
        sealed = nonce + self._cipher.encrypt(nonce, plain, conversation.encode("utf-8"))
        return f"{_VERSION}:{base64.b64encode(sealed).decode('ascii')}"

    def open(self, sealed: str, conversation: str) -> Any:
        """The reverse of `seal`.

        Raises:
            HaechiError: it was sealed with another key, for another conversation, or has been altered.
        """
        try:
            version, _, content = sealed.partition(":")
            raw = base64.b64decode(content, validate=True)
            if version != _VERSION:
                raise HaechiError(f"a sealed value has version {version[:8]!r}, which is newer than this Haechi.")
            plain = self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], conversation.encode("utf-8"))
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise HaechiError(
                "a sealed value cannot be opened with this machine's key; copy keys/conversations.key from the server "
                "that sealed it."
            ) from error
        return json.loads(plain)


def _make(path: Path) -> None:
    """Two servers may start at once: the file appears whole, and the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(secrets.token_bytes(_KEY))
        handle.flush()
        os.fsync(handle.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()


def veil(text: str) -> str:
    """A personal value as it may be shown where no pattern knows it: a name, an address. The first letter stays.

    `김철수` becomes `김**`, `12 Mill Lane` becomes `1* **** ****`.
    """
    hidden = re.sub(r"\w", "*", text)
    for index, character in enumerate(text):
        if character.isalnum():
            return hidden[:index] + character + hidden[index + 1 :] if len(text) > 1 else "*"
    return hidden
