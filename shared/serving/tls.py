"""The certificate that the server shows, checked before anything starts.

`--tls-cert` is a PEM file with the server's certificate and, after it, those between it and its root; `--tls-key` holds
its private key, unencrypted, since a service starts with nobody there to type a password. The files are read once, at
the start: restart the server after the certificate was renewed.
"""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from shared.errors import BadInput


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files that belong together."""

    cert: Path
    key: Path

    @classmethod
    def of(cls, cert: Path | None, key: Path | None) -> Certificate | None:
        """What the options `--tls-cert` and `--tls-key` name; None if neither is given.

        Raises:
            BadInput: only one is given, a file cannot be read, the key is another certificate's, or the certificate is
                not valid now.
        """
        if cert is None and key is None:
            return None
        if cert is None or key is None:
            raise BadInput("--tls-cert and --tls-key belong together; give both.")
        found = cls(cert, key)
        found._check()
        return found

    def _check(self) -> None:
        certificate = self._certificate()
        key = self._private_key()
        if _public(key.public_key()) != _public(certificate.public_key()):
            raise BadInput(f"--tls-key {self.key} is not the key of --tls-cert {self.cert}; name a pair.")
        now = dt.datetime.now(dt.UTC)
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > last:
            raise BadInput(f"--tls-cert {self.cert} expired on {last:%Y-%m-%d}; renew it.")
        if now < first:
            raise BadInput(f"--tls-cert {self.cert} is valid from {first:%Y-%m-%d} on; set this machine's clock.")
        try:  # what only OpenSSL knows, such as keys that are too short for it
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key)
        except ssl.SSLError as error:
            raise BadInput(f"--tls-cert {self.cert} cannot be used: {error.reason}; have it issued anew.") from error

    def _certificate(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificates(_read("--tls-cert", self.cert))[0]
        except ValueError as error:
            raise BadInput(f"--tls-cert {self.cert} holds no PEM certificate; convert it with openssl.") from error

    def _private_key(self) -> PrivateKeyTypes:
        try:
            return serialization.load_pem_private_key(_read("--tls-key", self.key), password=None)
        except TypeError as error:
            raise BadInput(f"--tls-key {self.key} is encrypted; remove its password with openssl pkey.") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadInput(f"--tls-key {self.key} holds no PEM private key; convert it with openssl.") from error


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{option} {path} cannot be read: {error.strerror}; check path and permissions.") from error


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
