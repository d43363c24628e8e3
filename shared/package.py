"""Model packages: one folder (or zip) that holds a model, what it was made from, and proof that it is whole.

    manifest.json        what the model is: interface, thresholds, metrics, lineage, hash and size of every other file
    model.onnx           the model, with its pre- and post-processing
    golden/inputs.npz    sample inputs ...
    golden/outputs.npz   ... and what the model answered where it was made; replayed at load (`shared.runtime`)
    assets/...           whatever else the task needs
    manifest.sig         optional: an Ed25519 signature over manifest.json's bytes

The chain of trust: a pinned key signs the manifest, the manifest's hashes cover every file, the golden samples cover
the machine's arithmetic. Without a key, the manifest's own checksum still catches accidents. Files are read once, the
bytes that were hashed are the bytes that are used, and nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from shared import archive, files, signing
from shared.errors import BadInput, HaechiError, PackageRefused
from shared.manifest import (
    DATATYPES,
    SCHEMA_VERSION,
    FileEntry,
    GoldenTolerance,
    Lineage,
    Manifest,
    TensorSpec,
    Threshold,
    WeightsLicence,
    describe_error,
    printable,
)

__all__ = [
    "DATATYPES",
    "SCHEMA_VERSION",
    "FileEntry",
    "Golden",
    "GoldenTolerance",
    "Lineage",
    "Manifest",
    "Package",
    "TensorSpec",
    "Threshold",
    "WeightsLicence",
    "open_package",
    "sign_package",
    "write_package",
]

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
MODEL = "model.onnx"
GOLDEN_INPUTS = "golden/inputs.npz"
GOLDEN_OUTPUTS = "golden/outputs.npz"
ASSETS = "assets/"
_REQUIRED = (MODEL, GOLDEN_INPUTS, GOLDEN_OUTPUTS)


@dataclasses.dataclass(frozen=True)
class Golden:
    """Sample inputs and the outputs they must give, by tensor name."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Package:
    """A package whose hashes, schema and (where a key is pinned) signature have been verified, in memory."""

    path: Path
    """Where it was read from; later changes there do not reach this object."""
    manifest: Manifest
    golden: Golden
    files: Mapping[str, bytes]
    """Every file, manifest and signature included, by its name in the package."""
    signature: signing.Signature | None
    """What `manifest.sig` claims; see `signed_by` for what was proven."""
    signed_by: str | None
    """Id of the pinned key that signed the package; None if unsigned, or if no pinned key was there to check it."""

    @property
    def model(self) -> bytes:
        """The bytes of `model.onnx`."""
        return self.files[MODEL]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the bytes of `manifest.json`, which stands for the whole content."""
        return hashlib.sha256(self.files[MANIFEST]).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files together, unpacked."""
        return sum(len(content) for content in self.files.values())

    @property
    def assets(self) -> list[str]:
        """Names of the assets, without `assets/`, sorted."""
        return sorted(name.removeprefix(ASSETS) for name in self.files if name.startswith(ASSETS))

    def asset(self, name: str) -> bytes:
        """The content of one asset.

        Raises:
            BadInput: there is no such asset; the message lists those there are.
        """
        try:
            return self.files[ASSETS + name]
        except KeyError:
            have = ", ".join(self.assets) or "none"
            raise BadInput(f"package {self.path} has no asset {name}; it has: {have}.") from None


def open_package(path: Path | str, *, public_keys: Sequence[Path] | None = None) -> Package:
    """Read and verify a package, folder or zip. The golden self-test is `shared.runtime.load`'s part.

    Args:
        path: the folder or the zip file.
        public_keys: `.pub` files of which one must have signed the package; an empty sequence accepts any package.
            None takes the keys this machine trusts: every `.pub` in `<home>/keys/trusted`.

    Raises:
        PackageRefused: damaged, truncated, tampered with, of a newer schema, unsigned or signed by an unknown key where
            keys are pinned, with missing or extra files, links, or unsafe names; the sentence says which.
        BadInput: a pinned key cannot be read.
    """
    path = Path(path)
    keys = [signing.read_public(key) for key in (signing.pinned_keys() if public_keys is None else public_keys)]
    return _verify(archive.read_files(path), path, keys)


def _verify(content: Mapping[str, bytes], path: Path, keys: Sequence[signing.PublicKey]) -> Package:
    if MANIFEST not in content:
        raise PackageRefused(f"{path} is not a package: {MANIFEST} is missing.")
    data = content[MANIFEST]
    signature, signed_by = _check_signature(content, path, keys)
    manifest = _parse_manifest(data, path)
    _check_files(content, manifest, path)
    golden = Golden(
        archive.read_arrays(content[GOLDEN_INPUTS], f"{path}: {GOLDEN_INPUTS}"),
        archive.read_arrays(content[GOLDEN_OUTPUTS], f"{path}: {GOLDEN_OUTPUTS}"),
    )
    problem = _golden_problem(golden, manifest)
    if problem:
        raise PackageRefused(f"{path} is refused: {problem}.")
    return Package(path, manifest, golden, types.MappingProxyType(dict(content)), signature, signed_by)


def _check_signature(
    content: Mapping[str, bytes], path: Path, keys: Sequence[signing.PublicKey]
) -> tuple[signing.Signature | None, str | None]:
    signature = None
    if SIGNATURE in content:
        try:
            signature = signing.Signature.decode(content[SIGNATURE])
        except ValueError as error:
            raise PackageRefused(f"{path} is refused: its {SIGNATURE} is damaged ({error}).") from error
    if not keys:
        return signature, None
    trusted = ", ".join(f"{key.name} ({key.key_id})" for key in keys)
    if signature is None:
        raise PackageRefused(
            f"{path} is refused: it is not signed, and only packages signed by {trusted} are trusted here; "
            f"sign it with `haechi package sign`."
        )
    signer = signing.find_signer(signature, content[MANIFEST], keys)
    if signer is not None:
        return signature, signer.key_id
    if any(key.key_id == signature.key_id for key in keys):
        raise PackageRefused(
            f"{path} is refused: its signature does not match its manifest; one of them was changed after signing."
        )
    raise PackageRefused(
        f"{path} is refused: it is signed by the unknown key {signature.key_id}; trusted here: {trusted}."
    )


def _parse_manifest(data: bytes, path: Path) -> Manifest:
    try:
        raw = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys)
        canonical = _encode(raw) if isinstance(raw, dict) else b""
    # RecursionError: JSON nested thousands deep.
    except (ValueError, RecursionError) as error:
        raise PackageRefused(f"{path} is refused: {MANIFEST} is not valid JSON ({error}); it is damaged.") from error
    if not isinstance(raw, dict):
        raise PackageRefused(f"{path} is refused: {MANIFEST} is not a JSON object; it is damaged.")
    version = raw.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise PackageRefused(
            f"{path} is refused: it has schema version {version} and this Haechi reads up to {SCHEMA_VERSION}; "
            f"update Haechi."
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise PackageRefused(f"{path} is refused: {MANIFEST}: {describe_error(error)}.") from error
    if canonical != data or _checksum(raw) != manifest.checksum:
        raise PackageRefused(
            f"{path} is refused: {MANIFEST} was changed after it was written (its checksum does not match)."
        )
    return manifest


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key occurs twice")
    return keys


def _encode(raw: Mapping[str, Any]) -> bytes:
    return (json.dumps(raw, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _checksum(raw: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encode({key: value for key, value in raw.items() if key != "checksum"})).hexdigest()


def _check_files(content: Mapping[str, bytes], manifest: Manifest, path: Path) -> None:
    """Names first, then sizes and hashes, so that the sentence names the plainest reason."""
    expected = set(manifest.files)
    present = set(content) - {MANIFEST, SIGNATURE}
    missing = sorted((expected | set(_REQUIRED)) - present)
    if missing:
        raise PackageRefused(f"{path} is refused: {printable(missing[0])} is missing; copy the package again.")
    extra = sorted(present - expected)
    if extra:
        raise PackageRefused(f"{path} is refused: it holds {extra[0]}, which its manifest does not list; remove it.")
    for name, entry in manifest.files.items():
        if name not in _REQUIRED and not name.startswith(ASSETS):
            raise PackageRefused(f"{path} is refused: {name} is not a file a package may hold.")
        size = len(content[name])
        if size != entry.size:
            verb = "was cut short" if size < entry.size else "has grown"
            raise PackageRefused(
                f"{path} is refused: {name} {verb} (it has {size} bytes, its manifest says {entry.size}); "
                f"copy the package again."
            )
        if hashlib.sha256(content[name]).hexdigest() != entry.sha256:
            raise PackageRefused(
                f"{path} is refused: {name} was changed or damaged (its SHA-256 is not the manifest's); "
                f"copy the package again."
            )


def _golden_problem(golden: Golden, manifest: Manifest) -> str | None:
    """What is wrong between the golden samples and the manifest, or None."""
    for kind, specs, arrays in (
        ("inputs", manifest.inputs, golden.inputs),
        ("outputs", manifest.outputs, golden.outputs),
    ):
        names = {spec.name for spec in specs}
        if names != set(arrays):
            return f"its golden {kind} are {sorted(arrays)} and its manifest declares {sorted(names)}"
        for spec in specs:
            problem = spec.mismatch(arrays[spec.name])
            if problem:
                return f"its golden {kind[:-1]} {spec.name} {problem}"
            array = arrays[spec.name]
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return f"its golden {kind[:-1]} {spec.name} holds a value that is not a finite number"
    return None


def write_package(
    destination: Path | str,
    manifest: Manifest,
    model: bytes,
    golden: Golden,
    assets: Mapping[str, bytes] | None = None,
    *,
    signing_key: Path | None = None,
    replace: bool = False,
) -> None:
    """Write a package in one step: after a crash there is the whole package or none.

    Args:
        destination: a folder, or a zip file when the name ends in `.zip` or `.haechi`.
        manifest: its `files` and `checksum` are filled in here; the object given is not changed.
        model: the bytes of the ONNX model, weights inside.
        golden: samples whose names, types and shapes are the manifest's.
        assets: other files, by name below `assets/`.
        signing_key: PEM file of the private key to sign with.
        replace: put the package in the place of what is there.

    Raises:
        BadInput: manifest, golden samples and assets do not fit together, or the key cannot be used.
        HaechiError: the destination exists (without `replace`) or cannot be written.
    """
    destination = Path(destination)
    content = _compose(manifest, model, golden, assets or {}, signing_key)
    try:
        _verify(content, destination, [])
    except PackageRefused as error:
        raise BadInput(f"the package would not be accepted: {error}") from error
    store_files(destination, content, replace=replace)


def _compose(
    manifest: Manifest, model: bytes, golden: Golden, assets: Mapping[str, bytes], signing_key: Path | None
) -> dict[str, bytes]:
    content = {
        MODEL: model,
        GOLDEN_INPUTS: archive.write_arrays(_plain(golden.inputs)),
        GOLDEN_OUTPUTS: archive.write_arrays(_plain(golden.outputs)),
    }
    content |= {ASSETS + name: data for name, data in assets.items()}
    for name in content:
        problem = archive.unsafe_name(name)
        if problem:
            raise BadInput(f"the file name {name!r} {problem}; rename the asset.")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    entries = {name: FileEntry(sha256=hashes[name], size=len(data)) for name, data in content.items()}
    try:
        raw = manifest.model_copy(update={"files": entries, "checksum": ""}).model_dump(mode="json")
        Manifest.model_validate(raw)
        raw["checksum"] = _checksum(raw)
        content[MANIFEST] = _encode(raw)
    except ValidationError as error:
        raise BadInput(f"the manifest of {manifest.name}: {describe_error(error)}.") from error
    except (ValueError, TypeError) as error:
        raise BadInput(f"the manifest of {manifest.name} cannot be written as JSON: {error}.") from error
    if signing_key is not None:
        content[SIGNATURE] = signing.sign(signing_key, content[MANIFEST]).encode()
    return content


def _plain(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Text arrives as arrays of Python strings, which only pickling could store; keep it as fixed-width Unicode."""
    return {name: array.astype(np.str_) if array.dtype.kind == "O" else array for name, array in arrays.items()}


def store_files(destination: Path, content: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Write the files of a package, as they are, to a folder or (by the name's suffix) a zip, in one step.

    Raises:
        HaechiError: the destination exists (without `replace`) or cannot be written.
    """
    if archive.is_zip_name(destination):
        if destination.exists() and not replace:
            raise HaechiError(f"{destination} exists already; choose another name or remove it.")
        files.write_bytes(destination, archive.write_zip(content))
        return
    with files.new_folder(destination, replace=replace) as folder:
        for name, data in content.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def sign_package(path: Path | str, private: Path) -> Package:
    """Sign the package at `path` in place, replacing a signature that is there, and return it.

    Raises:
        PackageRefused: the package is not whole.
        BadInput: the key cannot be used.
    """
    path = Path(path)
    package = open_package(path, public_keys=[])
    signature = signing.sign(private, package.files[MANIFEST])
    content = dict(package.files) | {SIGNATURE: signature.encode()}
    if path.is_dir():
        files.write_bytes(path / SIGNATURE, content[SIGNATURE])
    else:
        files.write_bytes(path, archive.write_zip(content))
    return dataclasses.replace(package, files=types.MappingProxyType(content), signature=signature)
