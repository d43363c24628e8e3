"""Properties that hold for every package, and a fuzz test: the reader knows one error, PackageRefused."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import archive, package, signing
from shared.errors import PackageRefused
from shared.manifest import DATATYPES, datatype_of
from shared.package import Golden, TensorSpec, Threshold, open_package, write_package
from tests.shared.packages import make_manifest, make_package

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Surrogates cannot be written as UTF-8; everything else can be in a text field.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
visible = st.characters(exclude_categories=["C"])  # tensors are called what ONNX calls them: images:0, /model/out
asset_names = st.from_regex(r"[a-z0-9_][a-z0-9_ -]{0,8}[a-z](/[a-z0-9][a-z0-9]{0,5}){0,2}\.bin", fullmatch=True)
plain_dtypes = st.sampled_from([dtype for name, dtype in DATATYPES.items() if name != "BYTES"])
arrays = plain_dtypes.flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements=hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False),
    )
)
tensors = st.dictionaries(st.text(visible, min_size=1, max_size=9), arrays, min_size=1, max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


def specs(tensors: Mapping[str, np.ndarray]) -> list[TensorSpec]:
    found = {name: datatype_of(array) for name, array in tensors.items()}
    return [TensorSpec(name=name, datatype=kind or "", shape=[-1] * tensors[name].ndim) for name, kind in found.items()]


@QUICK
@given(
    model=st.binary(max_size=200),
    inputs=tensors,
    outputs=tensors,
    assets=st.dictionaries(asset_names, st.binary(max_size=50), max_size=3),
    description=text,
    labels=st.lists(text, max_size=3),
    thresholds=st.dictionaries(text, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    options=st.dictionaries(text, json_values, max_size=3),
    zipped=st.booleans(),
)
def test_round_trip(
    model: bytes,
    inputs: dict[str, np.ndarray],
    outputs: dict[str, np.ndarray],
    assets: dict[str, bytes],
    description: str,
    labels: list[str],
    thresholds: dict[str, float],
    options: dict[str, Any],
    zipped: bool,
) -> None:
    manifest = make_manifest()
    manifest.inputs, manifest.outputs = specs(inputs), specs(outputs)
    manifest.description, manifest.labels = description, labels
    manifest.thresholds = {name: Threshold(value=value, method="m") for name, value in thresholds.items()}
    manifest.preprocessing, manifest.lineage.settings = options, options
    # A name and a folder of the same name cannot both be files.
    assets = {name: data for name, data in assets.items() if not any(o.startswith(name + "/") for o in assets)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.zip" if zipped else "p")
        write_package(path, manifest, model, Golden(inputs, outputs), assets)
        read = open_package(path)
    assert read.model == model
    assert {name: read.asset(name) for name in read.assets} == assets
    assert read.manifest == manifest.model_copy(
        update={"files": read.manifest.files, "checksum": read.manifest.checksum}
    )
    for before, after in ((inputs, read.golden.inputs), (outputs, read.golden.outputs)):
        assert before.keys() == after.keys()
        for name, array in before.items():
            assert after[name].dtype == array.dtype
            np.testing.assert_array_equal(after[name], array)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], bytes, Path]:
    """A signed package's files, the same as a zip, and the public key."""
    folder = tmp_path_factory.mktemp("signed")
    signing.make_key(folder / "k.pem")
    path = make_package(folder / "p", size=2, assets={"a.txt": b"hello"}, signing_key=folder / "k.pem")
    files = archive.read_files(path)
    return files, archive.write_zip(files), folder / "k.pub"


def verify(files: Mapping[str, bytes], *keys: Path) -> package.Package:
    return package._verify(files, Path("p"), [signing.read_public(key) for key in keys])


@settings(QUICK, max_examples=300)
@given(data=st.data(), pinned=st.booleans())
def test_any_flipped_bit_of_any_file_is_refused(
    signed: tuple[dict[str, bytes], bytes, Path], data: st.DataObject, pinned: bool
) -> None:
    """Without a pinned key a signature proves nothing, so there its key id and value may be anything well-formed."""
    files, _, key = signed
    name = data.draw(st.sampled_from(sorted(files if pinned else files.keys() - {"manifest.sig"})))
    content = bytearray(files[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PackageRefused):
        verify({**files, name: bytes(content)}, *([key] if pinned else []))


@settings(QUICK, max_examples=200)
@given(data=st.data())
def test_any_cut_of_any_file_is_refused(signed: tuple[dict[str, bytes], bytes, Path], data: st.DataObject) -> None:
    files, _, key = signed
    name = data.draw(st.sampled_from(sorted(files)))
    keep = data.draw(st.integers(0, len(files[name]) - 1))
    with pytest.raises(PackageRefused):
        verify({**files, name: files[name][:keep]}, key)


@settings(QUICK, max_examples=300)
@given(data=st.data())
def test_any_flipped_bit_of_a_zip_is_refused_or_changes_nothing(
    signed: tuple[dict[str, bytes], bytes, Path], data: st.DataObject
) -> None:
    """Some bits of a zip mean nothing (dates, the version that made it); the content behind them must be the same."""
    files, zipped, key = signed
    content = bytearray(zipped)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = archive.read_zip(io.BytesIO(content), len(content), "p.zip")
        verify(read, key)
    except PackageRefused:
        return
    assert read == files


# --- fuzz: whatever comes in, PackageRefused is all that comes out ----------------------------------------------------


def refusal(act: Callable[[], object]) -> str:
    """The sentence with which `act` was refused, or the empty string; any other exception fails the test."""
    try:
        act()
    except PackageRefused as error:
        return str(error)
    return ""


def read_or_refuse(content: bytes) -> None:
    said = refusal(lambda: verify(archive.read_zip(io.BytesIO(content), len(content), "p.zip")))
    assert not said or (said.isprintable() and said.endswith("."))


@settings(QUICK, max_examples=150)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"PK\x05\x06" + tail))
def test_random_bytes(content: bytes) -> None:
    read_or_refuse(content)


@settings(QUICK, max_examples=300)
@given(data=st.data())
def test_mutated_zips(signed: tuple[dict[str, bytes], bytes, Path], data: st.DataObject) -> None:
    """Several bytes overwritten at once, pieces removed, doubled or inserted, most often in the headers at the end."""
    content = bytearray(signed[1])
    places = st.integers(0, len(content) - 1) | st.integers(max(0, len(content) - 600), len(content) - 1)
    for _ in range(data.draw(st.integers(1, 6))):
        start = min(data.draw(places), len(content))
        length = data.draw(st.integers(0, 12))
        kind = data.draw(st.sampled_from(["overwrite", "remove", "insert", "double"]))
        piece = data.draw(st.binary(min_size=length, max_size=length))
        if kind == "overwrite":
            content[start : start + length] = piece
        elif kind == "remove":
            del content[start : start + length]
        elif kind == "insert":
            content[start:start] = piece
        else:
            content[start:start] = content[start : start + length]
    read_or_refuse(bytes(content))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(QUICK, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["manifest.json", "manifest.sig", "model.onnx", "golden/inputs.npz", "assets/a"]) | text,
        st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()),
        max_size=5,
    )
)
def test_zips_of_random_files(files: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in files.items():
            made.writestr(zipfile.ZipInfo(name or "x"), content)
    read_or_refuse(buffer.getvalue())


@settings(QUICK, max_examples=200)
@given(data=st.data())
def test_manifests_of_random_json(signed: tuple[dict[str, bytes], bytes, Path], data: st.DataObject) -> None:
    """Any field replaced by any JSON, with checksum and form renewed, so that the reader gets as deep as it can."""
    raw = json.loads(signed[0]["manifest.json"])
    spot: Any = raw
    while True:
        key = data.draw(st.sampled_from(sorted(spot))) if isinstance(spot, dict) else len(spot) - 1
        inside = spot[key]
        if isinstance(inside, dict | list) and inside and data.draw(st.booleans()):
            spot = inside
            continue
        spot[key] = data.draw(json_values)
        break
    raw["checksum"] = package._checksum(raw)
    said = refusal(lambda: verify({**signed[0], "manifest.json": package._encode(raw)}))
    assert not said or (said.isprintable() and said.endswith("."))


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(QUICK, max_examples=200)
@given(data=st.data())
def test_mutated_arrays(signed: tuple[dict[str, bytes], bytes, Path], data: st.DataObject) -> None:
    """The .npy inside the .npz, beyond the zip's own checksum: headers are read by numpy's literal parser."""
    entries = archive.read_zip(io.BytesIO(signed[0]["golden/outputs.npz"]), 10**6, "golden")
    name = data.draw(st.sampled_from(sorted(entries)))
    content = bytearray(entries[name])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(len(content), 128) - 1))] = data.draw(st.integers(0, 255))
    found: dict[str, np.ndarray] = {}
    said = refusal(lambda: found.update(archive.read_arrays(archive.write_zip({name: bytes(content)}), "golden")))
    assert not said or (said.isprintable() and said.endswith("."))
    assert not any(array.dtype.hasobject for array in found.values())
