"""Ed25519 signatures (RFC 8032) over a package's manifest, which holds the hash of every other file.

A private key is an unencrypted PKCS#8 PEM file that only its owner may read; the public key lies beside it with the
suffix `.pub`. A machine pins keys by keeping their `.pub` files in `<home>/keys/trusted`: from then on it refuses
packages that none of them signed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared import files, settings
from shared.errors import BadInput

ALGORITHM = "ed25519"
_KEY_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Signature:
    """A signature as `manifest.sig` keeps it. It proves nothing until it is verified with a pinned key."""

    key_id: str
    """First 16 hexadecimal digits of the SHA-256 of the raw public key."""
    value: bytes

    def encode(self) -> bytes:
        """The bytes of `manifest.sig`."""
        value = base64.b64encode(self.value).decode("ascii")
        text = json.dumps({"algorithm": ALGORITHM, "key_id": self.key_id, "signature": value}, indent=2)
        return (text + "\n").encode("ascii")

    @staticmethod
    def decode(content: bytes) -> Signature:
        """The reverse of `encode`, byte for byte.

        Raises:
            ValueError: the bytes are not a signature this version knows.
        """
        try:
            fields = json.loads(content)
            if fields["algorithm"] != ALGORITHM:
                raise ValueError(f"the algorithm is not {ALGORITHM}")
            if not _KEY_ID.fullmatch(fields["key_id"]):
                raise ValueError("its key id is not 16 hexadecimal digits")
            signature = Signature(fields["key_id"], base64.b64decode(fields["signature"], validate=True))
        except (KeyError, TypeError, RecursionError, binascii.Error) as error:
            raise ValueError("it is not a signature file") from error
        if signature.encode() != content:
            raise ValueError("it was changed after it was written")
        return signature


@dataclass(frozen=True)
class PublicKey:
    """A public key and the name of the file it came from."""

    name: str
    key_id: str
    key: Ed25519PublicKey

    def verifies(self, signature: Signature, data: bytes) -> bool:
        """Whether this key made `signature` over `data`."""
        if signature.key_id != self.key_id:
            return False
        try:
            self.key.verify(signature.value, data)
        except InvalidSignature:
            return False
        return True


def key_id(key: Ed25519PublicKey) -> str:
    """The short name of a key: the first 16 hexadecimal digits of the SHA-256 of its 32 raw bytes."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def trusted_folder() -> Path:
    """Where this machine keeps the `.pub` files it trusts."""
    return settings.load().keys / "trusted"


def pinned_keys() -> list[Path]:
    """The `.pub` files this machine trusts; none means that unsigned packages are accepted.

    Raises:
        BadInput: the folder exists but cannot be listed. Trust must not be lost by a wrong permission.
    """
    folder = trusted_folder()
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".pub"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(f"the trusted keys in {folder} could not be listed: {error.strerror or error}.") from error


def make_key(private: Path) -> PublicKey:
    """Make a key pair: `private` (readable by its owner alone) and the same name with `.pub` added.

    Raises:
        BadInput: one of the two files exists already; keys are never overwritten.
        HaechiError: the folder cannot be written.
    """
    public = public_path(private)
    for path in (private, public):
        if path.exists():
            raise BadInput(f"{path} exists already and keys are never overwritten; choose another name.")
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_private(private, content)
    files.write_bytes(
        public,
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    return read_public(public)


def public_path(private: Path) -> Path:
    """Where the public key of the private key `private` lies."""
    return private.with_name(private.name.removesuffix(".pem") + ".pub")


def _write_private(path: Path, content: bytes) -> None:
    """Write with mode 0600 from the first byte on, and only if `path` does not exist."""
    temporary = path.with_name(f"{files.TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise BadInput(f"{path} could not be written: {error.strerror or error}; choose another place.") from error


def sign(private: Path, data: bytes) -> Signature:
    """Sign `data` with the private key in the PEM file `private`.

    Raises:
        BadInput: the file is missing, encrypted or not an Ed25519 private key.
    """
    try:
        key = serialization.load_pem_private_key(_read(private), password=None)
    except TypeError as error:
        raise BadInput(f"{private} is encrypted; use a key made by `haechi package keygen`.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{private} is not a private key; use a key made by `haechi package keygen`.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{private} is not an Ed25519 key; use a key made by `haechi package keygen`.")
    return Signature(key_id(key.public_key()), key.sign(data))


def read_public(path: Path) -> PublicKey:
    """The public key in the PEM file `path`.

    Raises:
        BadInput: the file is missing or not an Ed25519 public key.
    """
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{path} is not a public key; pin the .pub file that `haechi package keygen` made.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadInput(f"{path} is not an Ed25519 key; pin the .pub file that `haechi package keygen` made.")
    return PublicKey(path.name.removesuffix(".pub"), key_id(key), key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"key {path} could not be read: {error.strerror or error}.") from error


def find_signer(signature: Signature, data: bytes, keys: Sequence[PublicKey]) -> PublicKey | None:
    """The key among `keys` that made `signature` over `data`, or None."""
    return next((key for key in keys if key.verifies(signature, data)), None)


def trust_key(public: Path) -> tuple[Path, PublicKey]:
    """Pin a public key on this machine; returns where it is kept, and the key. Doing it twice changes nothing.

    Raises:
        BadInput: not a public key, or another key is trusted under the same file name.
    """
    key = read_public(public)
    kept = trusted_folder() / f"{key.name}.pub"
    if kept.exists() and read_public(kept).key_id != key.key_id:
        raise BadInput(f"another key is trusted as {kept}; rename {public} or remove the other.")
    files.write_bytes(kept, _read(public))
    return kept, key
