"""Packages: what is written can be read again, and everything that is not whole is refused with the reason."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import archive, package, settings, signing
from shared.errors import BadInput, HaechiError, PackageRefused
from shared.package import Golden, Package, Threshold, WeightsLicence, open_package, sign_package, write_package
from tests.shared import workers
from tests.shared.packages import make_manifest, make_model, make_package, run_model


def golden_for(model: bytes) -> Golden:
    inputs: dict[str, np.ndarray] = {
        "image": np.full((1, 8, 8, 3), 200, np.uint8),
        "pixel_threshold": np.array([0.6], np.float32),
    }
    return Golden(inputs, run_model(model, inputs))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], *, honest: bool = True) -> None:
    """Change a package's manifest; `honest` renews its checksum, as a newer writer or an attacker would."""
    path = folder / "manifest.json"
    raw = json.loads(path.read_text("utf-8"))
    change(raw)
    if honest:
        raw["checksum"] = package._checksum(raw)
    path.write_bytes(package._encode(raw))


@pytest.mark.parametrize("name", ["p", "p.zip", "p.haechi"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    path = make_package(tmp_path / name, assets={"notes/read me.txt": b"hello", "empty": b""})
    opened = open_package(path)
    assert path.is_dir() == (name == "p")
    assert opened.manifest.name == "tiny"
    assert opened.manifest.thresholds["review"].value == 0.5
    assert opened.model == make_model()
    assert opened.assets == ["empty", "notes/read me.txt"]
    assert opened.asset("notes/read me.txt") == b"hello"
    assert opened.golden.inputs["image"].dtype == np.uint8
    expected = run_model(opened.model, dict(opened.golden.inputs))
    for output, array in opened.golden.outputs.items():
        np.testing.assert_array_equal(array, expected[output])
    assert opened.signature is None
    assert opened.signed_by is None
    assert opened.fingerprint == hashlib.sha256(opened.files["manifest.json"]).hexdigest()


def test_folder_and_zip_are_the_same_package(tmp_path: Path) -> None:
    folder, zipped = make_package(tmp_path / "p"), make_package(tmp_path / "p.zip")
    assert open_package(folder).files == open_package(zipped).files


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    assert make_package(tmp_path / "a.zip").read_bytes() == make_package(tmp_path / "b.zip").read_bytes()


def test_zip_made_by_a_desktop_tool(tmp_path: Path) -> None:
    """Such tools put one folder around everything and add entries for folders."""
    folder = make_package(tmp_path / "made" / "tiny")
    zipped = shutil.make_archive(str(tmp_path / "tiny"), "zip", tmp_path / "made", "tiny")
    assert open_package(zipped).fingerprint == open_package(folder).fingerprint


def test_missing_asset_names_those_there_are(tmp_path: Path) -> None:
    opened = open_package(make_package(tmp_path / "p", assets={"a.txt": b""}))
    with pytest.raises(BadInput, match=r"no asset b\.txt; it has: a\.txt"):
        opened.asset("b.txt")


def test_later_changes_on_disk_do_not_reach_an_opened_package(tmp_path: Path) -> None:
    path = make_package(tmp_path / "p")
    opened = open_package(path)
    (path / "model.onnx").write_bytes(b"changed")
    assert opened.model == make_model()


# --- refusals ---------------------------------------------------------------------------------------------------------

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated model": (lambda p: os.truncate(p / "model.onnx", 100), r"model\.onnx was cut short .*100 bytes"),
    "grown model": (lambda p: (p / "model.onnx").open("ab").write(b"x"), r"model\.onnx has grown"),
    "missing model": (lambda p: (p / "model.onnx").unlink(), r"model\.onnx is missing"),
    "missing golden": (lambda p: (p / "golden/outputs.npz").unlink(), r"golden/outputs\.npz is missing"),
    "missing asset": (lambda p: (p / "assets/a.txt").unlink(), r"assets/a\.txt is missing"),
    "missing manifest": (lambda p: (p / "manifest.json").unlink(), r"manifest\.json is missing"),
    "empty manifest": (lambda p: (p / "manifest.json").write_bytes(b""), r"not valid JSON"),
    "truncated manifest": (lambda p: os.truncate(p / "manifest.json", 500), r"not valid JSON"),
    "manifest is a list": (lambda p: (p / "manifest.json").write_bytes(b"[]"), r"not a JSON object"),
    "manifest nested too deep": (lambda p: (p / "manifest.json").write_bytes(b"[" * 100_000), r"not valid JSON"),
    "manifest not UTF-8": (lambda p: (p / "manifest.json").write_bytes(b'{"name": "\xff"}'), r"not valid JSON"),
    "manifest repeats a key": (lambda p: (p / "manifest.json").write_bytes(b'{"a": 1, "a": 2}'), r"a key occurs twice"),
    "extra file": (lambda p: (p / "assets/b.txt").write_bytes(b""), r"assets/b\.txt, which its manifest does not list"),
    "hidden extra file": (lambda p: (p / ".DS_Store").write_bytes(b""), r"'\.DS_Store' has a part"),
    "link to a file": (lambda p: _replace_by_link(p / "assets/a.txt"), r"assets/a\.txt is a link"),
    "link to a folder": (lambda p: (p / "more").symlink_to("/tmp"), r"more is a link"),
    "named pipe": (lambda p: os.mkfifo(p / "assets/pipe"), r"assets/pipe is not a plain file"),
    "damaged signature": (lambda p: (p / "manifest.sig").write_bytes(b"{}"), r"manifest\.sig is damaged"),
}


def _replace_by_link(path: Path) -> None:
    kept = path.rename(path.parents[2] / "kept")
    path.symlink_to(kept)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_with_the_reason(tmp_path: Path, damage: str) -> None:
    path = make_package(tmp_path / "p", assets={"a.txt": b"a"})
    act, reason = DAMAGES[damage]
    act(path)
    with pytest.raises(PackageRefused, match=reason) as refusal:
        open_package(path)
    assert str(path) in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


def test_same_size_change_is_refused(tmp_path: Path) -> None:
    path = make_package(tmp_path / "p")
    content = bytearray((path / "model.onnx").read_bytes())
    content[50] ^= 1
    (path / "model.onnx").write_bytes(content)
    with pytest.raises(PackageRefused, match=r"model\.onnx was changed or damaged"):
        open_package(path)


MANIFEST_CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer schema": (lambda m: m.update(schema_version=2), r"schema version 2 .* reads up to 1; update Haechi"),
    "newer schema with new keys": (lambda m: m.update(schema_version=3, future=1), r"schema version 3"),
    "unknown key": (lambda m: m.update(treshold={}), r"unknown key treshold; the nearest known one is thresholds"),
    "unknown inner key": (
        lambda m: m["lineage"].update(sede=1),
        r"unknown key lineage\.sede; the nearest known one is seed",
    ),
    "unknown key like none": (lambda m: m.update(zzz=1), r"unknown key zzz; known keys: schema_version"),
    "unknown key in a list": (
        lambda m: m["inputs"][0].update(nam="x"),
        r"inputs\.0\.nam; the nearest known one is name",
    ),
    "missing key": (lambda m: m.pop("task"), r"task: Field required"),
    "bad name": (lambda m: m.update(name="../evil"), r"name: String should match"),
    "name with a line feed": (lambda m: m.update(name="tiny\n"), r"name: String should match"),
    "bad datatype": (lambda m: m["inputs"][0].update(datatype="FLOAT"), r"datatype FLOAT of image is not one of BOOL"),
    "other datatype": (lambda m: m["inputs"][0].update(datatype="INT8"), r"golden input image must be INT8"),
    "other rank": (lambda m: m["outputs"][0].update(shape=[-1, 1]), r"golden output score must have 2 dimensions"),
    "other shape": (lambda m: m["inputs"][0].update(shape=[-1, -1, -1, 1]), r"golden input image must have the shape"),
    "fewer outputs": (lambda m: m["outputs"].pop(), r"golden outputs are .*mask.* declares"),
    "no inputs": (lambda m: m["inputs"].clear(), r"inputs is empty"),
    "tensor twice": (lambda m: m["inputs"].append(m["inputs"][0]), r"inputs names a tensor twice"),
    "unmeasured headline": (lambda m: m.update(metric="f1"), r"metric f1 is not among the metrics \(image_auroc\)"),
    "file outside the layout": (
        lambda m: m["files"].update({"other.bin": m["files"]["model.onnx"]}),
        r"other\.bin is missing",
    ),
}


@pytest.mark.parametrize("change", MANIFEST_CHANGES)
def test_manifest_that_does_not_fit_is_refused(tmp_path: Path, change: str) -> None:
    path = make_package(tmp_path / "p")
    act, reason = MANIFEST_CHANGES[change]
    rewrite(path, act)
    with pytest.raises(PackageRefused, match=reason):
        open_package(path)


def test_edited_manifest_is_refused(tmp_path: Path) -> None:
    """Even where no key is pinned: a threshold nudged by hand is no longer the measured one."""
    path = make_package(tmp_path / "p")
    rewrite(path, lambda m: m["thresholds"]["ng"].update(value=0.99), honest=False)
    with pytest.raises(PackageRefused, match="changed after it was written"):
        open_package(path)


def test_file_listed_outside_the_layout_is_refused(tmp_path: Path) -> None:
    path = make_package(tmp_path / "p")
    (path / "run.sh").write_bytes(b"x")
    entry = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    rewrite(path, lambda m: m["files"].update({"run.sh": entry}))
    with pytest.raises(PackageRefused, match=r"run\.sh is not a file a package may hold"):
        open_package(path)


@pytest.mark.parametrize("name", ["nothing", "text.txt", "pipe"])
def test_what_is_no_package_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PackageRefused, match=name):
        open_package(tmp_path / name)


def test_golden_of_objects_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "unpickled",))

    path = make_package(tmp_path / "p")
    np.savez(path / "golden/inputs.npz", image=np.array([Bomb()], dtype=object), allow_pickle=True)
    content = (path / "golden/inputs.npz").read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    rewrite(path, lambda m: m["files"].update({"golden/inputs.npz": entry}))
    with pytest.raises(PackageRefused, match="not an array of plain numbers"):
        open_package(path)
    assert not (tmp_path / "unpickled").exists()


def test_golden_that_claims_a_huge_array_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header = header.ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"12345678"
    with pytest.raises(PackageRefused, match="header promises 8000000000000"):
        archive.read_arrays(archive.write_zip({"image.npy": array}), "golden")


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    signing.make_key(tmp_path / "factory.pem")
    return tmp_path / "factory.pem"


@pytest.mark.parametrize("name", ["p", "p.zip"])
def test_signed_at_writing_or_later(tmp_path: Path, key: Path, name: str) -> None:
    public = key.with_name("factory.pub")
    written = make_package(tmp_path / f"w{name}", signing_key=key)
    later = make_package(tmp_path / f"l{name}")
    sign_package(later, key)
    for path in (written, later):
        assert open_package(path, public_keys=[public]).signed_by == signing.read_public(public).key_id
    assert open_package(written).files == open_package(later).files


def test_unsigned_is_refused_where_a_key_is_pinned(tmp_path: Path, key: Path, haechi_home: Path) -> None:
    path = make_package(tmp_path / "p")
    assert open_package(path).signed_by is None
    signing.trust_key(key.with_name("factory.pub"))
    with pytest.raises(PackageRefused, match=r"not signed, and only packages signed by factory \([0-9a-f]{16}\)"):
        open_package(path)
    sign_package(path, key)
    assert open_package(path).signed_by is not None
    assert settings.load().keys == haechi_home / "keys"


def test_unknown_key_is_refused(tmp_path: Path, key: Path) -> None:
    other = signing.make_key(tmp_path / "other.pem")
    path = make_package(tmp_path / "p", signing_key=tmp_path / "other.pem")
    with pytest.raises(PackageRefused, match=f"unknown key {other.key_id}; trusted here: factory"):
        open_package(path, public_keys=[key.with_name("factory.pub")])
    assert (
        open_package(path, public_keys=[key.with_name("factory.pub"), tmp_path / "other.pub"]).signed_by == other.key_id
    )


def test_manifest_changed_after_signing_is_refused(tmp_path: Path, key: Path) -> None:
    path = make_package(tmp_path / "p", signing_key=key)
    rewrite(path, lambda m: m["thresholds"]["ng"].update(value=9.0))
    with pytest.raises(PackageRefused, match="signature does not match its manifest"):
        open_package(path, public_keys=[key.with_name("factory.pub")])


def test_signature_of_another_package_is_refused(tmp_path: Path, key: Path) -> None:
    one = make_package(tmp_path / "one", signing_key=key)
    two = make_package(tmp_path / "two", signing_key=key, gain=0.5)
    shutil.copy(one / "manifest.sig", two / "manifest.sig")
    with pytest.raises(PackageRefused, match="does not match"):
        open_package(two, public_keys=[key.with_name("factory.pub")])


def test_trusted_key_that_cannot_be_read_refuses_rather_than_trusts(tmp_path: Path, haechi_home: Path) -> None:
    folder = haechi_home / "keys" / "trusted"
    folder.mkdir(parents=True)
    (folder / "broken.pub").write_text("not a key")
    with pytest.raises(BadInput, match=r"broken\.pub is not a public key"):
        open_package(make_package(tmp_path / "p"))


# --- writing ----------------------------------------------------------------------------------------------------------


def test_existing_destination_is_kept_unless_replaced(tmp_path: Path) -> None:
    for name in ("p", "p.zip"):
        path = make_package(tmp_path / name)
        with pytest.raises(HaechiError, match="exists already"):
            make_package(tmp_path / name, gain=0.5)
        assert open_package(path).model == make_model()
        model = make_model(gain=0.5)
        write_package(path, make_manifest(), model, golden_for(model), replace=True)
        assert open_package(path).model == model
    assert sorted(child.name for child in tmp_path.iterdir() if child.name != "haechi-home") == ["p", "p.zip"]


@pytest.mark.parametrize(
    "name", ["../up", "/etc/x", "a/../../b", "a\\b", "", "con", ".hidden", "a//b", "x" * 300, "dot."]
)
def test_asset_names_that_mean_another_file_elsewhere_are_bad_input(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="rename the asset"):
        make_package(tmp_path / "p", assets={name: b""})
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("name", ["p", "p.zip"])
def test_kill_9_while_writing_leaves_the_whole_package_or_none(tmp_path: Path, name: str) -> None:
    """Every single file operation is tried as the last one."""
    found = set()
    for step in range(100):
        path = tmp_path / str(step) / name
        path.parent.mkdir()
        process = workers.start(workers.write_and_die, path, step)
        process.join(60)
        if path.exists():
            open_package(path)
        found.add(path.exists())
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
    assert process.exitcode == 0
    assert found == {True, False}


def test_writer_refuses_what_the_reader_would(tmp_path: Path) -> None:
    model = make_model()
    golden = golden_for(model)
    wrong = Golden({**golden.inputs, "image": golden.inputs["image"].astype(np.float32)}, golden.outputs)
    with pytest.raises(BadInput, match="golden input image must be UINT8"):
        write_package(tmp_path / "p", make_manifest(), model, wrong)
    infinite = Golden(golden.inputs, {**golden.outputs, "score": np.array([np.inf], np.float32)})
    with pytest.raises(BadInput, match="score holds a value that is not a finite number"):
        write_package(tmp_path / "p", make_manifest(), model, infinite)
    manifest = make_manifest()
    manifest.thresholds["ng"] = Threshold.model_construct(value=float("nan"), method="", details={})
    with pytest.raises(BadInput, match=r"thresholds\.ng\.value"):
        write_package(tmp_path / "p", manifest, model, golden)
    assert not (tmp_path / "p").exists()


def test_text_in_golden_samples_needs_no_pickle() -> None:
    arrays = {"text": np.array(["안녕", "hello"], dtype=object)}
    stored = archive.read_arrays(archive.write_arrays(package._plain(arrays)), "golden")
    assert stored["text"].tolist() == ["안녕", "hello"]


def test_manifest_keeps_licences_and_lineage(tmp_path: Path) -> None:
    manifest = make_manifest()
    manifest.weights = [WeightsLicence(name="w", licence="Apache-2.0", sha256="a" * 64, source="s")]
    manifest.lineage.settings = {"layers": [2, 4], "한국어": {"deep": None}}
    model = make_model()
    write_package(tmp_path / "p", manifest, model, golden_for(model))
    read = open_package(tmp_path / "p").manifest
    assert read.weights == manifest.weights
    assert read.lineage == manifest.lineage
    assert manifest.files == {}, "the caller's manifest is not changed"


def test_package_is_immutable(tmp_path: Path) -> None:
    opened: Package = open_package(make_package(tmp_path / "p"))
    with pytest.raises(TypeError):
        opened.files["model.onnx"] = b""  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        opened.path = tmp_path  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        opened.golden.inputs["image"][0] = 0
