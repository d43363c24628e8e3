"""Keys and signatures: Ed25519, private files private, trust by file."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from shared import signing
from shared.errors import BadInput, HaechiError


def test_sign_and_verify(tmp_path: Path) -> None:
    key = signing.make_key(tmp_path / "keys" / "factory.pem")
    signature = signing.sign(tmp_path / "keys" / "factory.pem", b"data")
    assert key == signing.read_public(tmp_path / "keys" / "factory.pub") or key.key_id == signature.key_id
    assert key.verifies(signature, b"data")
    assert not key.verifies(signature, b"date")
    assert signing.find_signer(signature, b"data", [key]) is key
    assert signing.find_signer(signature, b"data", []) is None


def test_signature_of_rfc_8032(tmp_path: Path) -> None:
    """Test 2 of section 7.1: secret key, public key, one-byte message, signature."""
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(secret)
    content = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "k.pem").write_bytes(content)
    expected = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert signing.sign(tmp_path / "k.pem", b"\x72").value.hex() == expected


def test_private_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        signing.make_key(tmp_path / "k.pem")
    finally:
        os.umask(old)
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "k.pem").read_bytes()
    with pytest.raises(BadInput, match=r"k\.pem exists already"):
        signing.make_key(tmp_path / "k.pem")
    (tmp_path / "other.pub").write_text("kept")
    with pytest.raises(BadInput, match=r"other\.pub exists already"):
        signing.make_key(tmp_path / "other.pem")
    assert (tmp_path / "k.pem").read_bytes() == before
    assert not (tmp_path / "other.pem").exists()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HaechiError, match=r"k\.pem could not be written"):
        signing.make_key(tmp_path / "file" / "k.pem")


def test_keys_of_other_kinds_are_bad_input(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec.pem").write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "ec.pub").write_bytes(
        other.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "locked.pem").write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    (tmp_path / "text.pem").write_text("hello")
    for name, reason in (
        ("ec.pem", "not an Ed25519 key"),
        ("locked.pem", "encrypted"),
        ("text.pem", "not a private key"),
        ("none.pem", "could not be read"),
    ):
        with pytest.raises(BadInput, match=reason):
            signing.sign(tmp_path / name, b"data")
    with pytest.raises(BadInput, match="not an Ed25519 key"):
        signing.read_public(tmp_path / "ec.pub")
    with pytest.raises(BadInput, match="not a public key"):
        signing.read_public(tmp_path / "text.pem")


def test_signature_file_is_read_only_as_written(tmp_path: Path) -> None:
    signing.make_key(tmp_path / "k.pem")
    signature = signing.sign(tmp_path / "k.pem", b"data")
    content = signature.encode()
    assert signing.Signature.decode(content) == signature
    fields = json.loads(content)
    assert fields["algorithm"] == "ed25519"
    assert len(base64.b64decode(fields["signature"])) == 64
    for bad in (
        b"",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        content[:-1],
        content + b" ",
        json.dumps({**fields, "algorithm": "none"}).encode(),
        json.dumps({**fields, "key_id": "../x"}).encode(),
        json.dumps({**fields, "key_id": 5}).encode(),
        json.dumps({**fields, "signature": "%"}).encode(),
    ):
        with pytest.raises(ValueError, match=r"."):
            signing.Signature.decode(bad)


def test_trusting_keys(tmp_path: Path, haechi_home: Path) -> None:
    assert signing.pinned_keys() == []
    signing.make_key(tmp_path / "a" / "k.pem")
    signing.make_key(tmp_path / "b" / "k.pem")
    kept, key = signing.trust_key(tmp_path / "a" / "k.pub")
    assert kept == haechi_home / "keys" / "trusted" / "k.pub"
    assert signing.read_public(kept).key_id == key.key_id
    signing.trust_key(tmp_path / "a" / "k.pub")
    assert signing.pinned_keys() == [kept]
    with pytest.raises(BadInput, match="another key is trusted as"):
        signing.trust_key(tmp_path / "b" / "k.pub")


def test_trust_folder_that_cannot_be_listed_is_an_error_not_an_empty_list(haechi_home: Path) -> None:
    (haechi_home / "keys").mkdir(parents=True)
    (haechi_home / "keys" / "trusted").write_text("a file")
    with pytest.raises(BadInput, match="could not be listed"):
        signing.pinned_keys()
