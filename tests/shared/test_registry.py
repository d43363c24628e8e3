"""The registry: versions, aliases, rollback; whole under many processes and under kill -9."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from shared import registry, settings, signing
from shared.errors import BadInput, HaechiError, PackageRefused
from shared.package import open_package, sign_package
from shared.registry import Registry
from tests.shared import workers
from tests.shared.packages import make_package

KILLS = 120
KILL_SECONDS = 12.0


@pytest.fixture
def store(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", who="tester")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six different packages of one name."""
    folder = tmp_path_factory.mktemp("packages")
    return [make_package(folder / f"p{i}", gain=1 + i / 8, version=f"1.{i}") for i in range(6)]


# --- versions ---------------------------------------------------------------------------------------------------------


def test_versions_count_up_and_are_whole(store: Registry, packages: list[Path], tmp_path: Path) -> None:
    other = make_package(tmp_path / "other.zip", name="other")
    assert [store.add(path).version for path in packages[:3]] == [1, 2, 3]
    assert store.add(other).reference == "other@1"
    assert [version.reference for version in store.list()] == ["other@1", "tiny@1", "tiny@2", "tiny@3"]
    assert [version.package_version for version in store.list("tiny")] == ["1.0", "1.1", "1.2"]
    for path, version in zip([other, *packages], store.list(), strict=False):
        assert open_package(version.path).files == open_package(path).files
        assert version.fingerprint == open_package(path).fingerprint
        assert version.metrics == {version.metric: 1.0}


def test_same_content_is_stored_once(store: Registry, packages: list[Path], tmp_path: Path) -> None:
    first = store.add(packages[0])
    store.add(packages[1])
    zipped = make_package(tmp_path / "same.zip", gain=1.0, version="1.0")
    assert store.add(zipped) == first
    assert store.add(packages[0], alias="challenger").aliases == ("challenger",)
    assert len(store.list()) == 2


def test_newly_signed_content_is_a_version_of_its_own(store: Registry, packages: list[Path], tmp_path: Path) -> None:
    """The stored copy is unsigned and would be refused once the key is trusted."""
    store.add(packages[0])
    key = signing.make_key(tmp_path / "k.pem")
    signing.trust_key(tmp_path / "k.pub")
    signed = shutil.copytree(packages[0], tmp_path / "signed")
    with pytest.raises(PackageRefused, match="not signed"):
        store.add(signed)
    with pytest.raises(PackageRefused, match="not signed"):
        store.promote("tiny", 1)
    sign_package(signed, tmp_path / "k.pem")
    version = store.add(signed, alias="champion")
    assert (version.version, version.signed_by) == (2, key.key_id)


def test_adding_verifies_fully(store: Registry, packages: list[Path], tmp_path: Path) -> None:
    damaged = shutil.copytree(packages[0], tmp_path / "damaged")
    os.truncate(damaged / "model.onnx", 100)
    with pytest.raises(PackageRefused, match="cut short"):
        store.add(damaged)
    with pytest.raises(PackageRefused, match="fails its self-test"):
        store.add(make_package(tmp_path / "wrong", wrong_golden=True))
    assert store.list() == []


def test_adding_again_heals_a_damaged_copy(store: Registry, packages: list[Path]) -> None:
    version = store.add(packages[0])
    os.truncate(version.path / "model.onnx", 100)
    with pytest.raises(PackageRefused, match="cut short"):
        store.promote("tiny", 1)
    assert store.add(packages[0]).version == 1
    assert open_package(store.get("tiny@1")).files == open_package(packages[0]).files
    shutil.rmtree(version.path)
    with pytest.raises(HaechiError, match=r"tiny@1 is missing from .*; add the same package again"):
        store.get("tiny@1")
    store.add(packages[0])
    assert store.get("tiny@1").is_dir()


# --- aliases ----------------------------------------------------------------------------------------------------------


def test_references(store: Registry, packages: list[Path]) -> None:
    one, two = store.add(packages[0]), store.add(packages[1])
    assert store.get("tiny") == two.path, "the newest, while there is no champion"
    store.promote("tiny", 1)
    store.set_alias("tiny", "challenger", 2)
    assert store.get("tiny") == store.get("tiny@champion") == store.get("tiny@1") == one.path
    assert store.get("tiny@challenger") == two.path
    assert store.aliases("tiny") == {"champion": 1, "challenger": 2}
    assert store.resolve("tiny@2").aliases == ("challenger",)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("tinny", r"no package 'tinny'; did you mean tiny\?"),
        ("zzz", r"no package 'zzz'; it has: tiny"),
        ("../tiny", r"no package '\.\./tiny'"),
        ("tiny@9", r"no version 9; it has: 1"),
        ("tiny@" + "9" * 5000, r"no alias"),
        ("tiny@0", r"no version 0"),
        ("tiny@challenger", r"no alias 'challenger'; it has: champion \(version 1\)"),
        ("tiny@", r"no alias ''"),
    ],
)
def test_wrong_references_say_what_there_is(store: Registry, packages: list[Path], reference: str, reason: str) -> None:
    store.add(packages[0], alias="champion")
    with pytest.raises(BadInput, match=reason):
        store.get(reference)


def test_promote_and_rollback(store: Registry, packages: list[Path]) -> None:
    for path in packages[:3]:
        store.add(path)
    assert store.promote("tiny", 1) == registry.Change("tiny", "champion", None, 1)
    with pytest.raises(BadInput, match="no earlier champion"):
        store.rollback("tiny")
    store.promote("tiny", 2)
    store.promote("tiny", 2)
    store.set_alias("tiny", "challenger", 3)
    store.promote("tiny", 3)
    assert store.aliases("tiny") == {"champion": 3}, "a challenger that was promoted is none any more"
    assert store.rollback("tiny") == registry.Change("tiny", "champion", 3, 2)
    assert store.rollback("tiny") == registry.Change("tiny", "champion", 2, 1)
    with pytest.raises(BadInput, match="no earlier champion"):
        store.rollback("tiny")
    assert store.aliases("tiny") == {"champion": 1}


def test_damaged_packages_become_no_champion(store: Registry, packages: list[Path]) -> None:
    one = store.add(packages[0], alias="champion")
    store.add(packages[1], alias="champion")
    (one.path / "model.onnx").write_bytes(b"")
    with pytest.raises(PackageRefused, match="cut short"):
        store.rollback("tiny")
    assert store.aliases("tiny") == {"champion": 2}


def test_aliases_of_ones_own(store: Registry, packages: list[Path]) -> None:
    store.add(packages[0])
    store.set_alias("tiny", "line-3", 1)
    assert store.set_alias("tiny", "line-3", None).after is None
    assert store.set_alias("tiny", "line-3", None) == registry.Change("tiny", "line-3", None, None)
    with pytest.raises(BadInput, match="cannot be removed"):
        store.set_alias("tiny", "champion", None)
    for alias in ("", "3", "Champion", "a b", "../x"):
        with pytest.raises(BadInput, match="must be lower-case letters"):
            store.set_alias("tiny", alias, 1)
        with pytest.raises(BadInput, match="must be lower-case letters"):
            store.add(packages[1], alias=alias)
    assert len(store.list()) == 1


def test_audit_has_a_line_for_each_change(store: Registry, packages: list[Path]) -> None:
    store.add(packages[0], alias="champion")
    store.add(packages[1])
    store.promote("tiny", 2)
    store.promote("tiny", 2)
    store.rollback("tiny")
    lines = store.audit("tiny")
    assert [(line["action"], line["version"], line["who"]) for line in lines] == [
        ("add", 1, "tester"),
        ("promote", 1, "tester"),
        ("add", 2, "tester"),
        ("promote", 2, "tester"),
        ("rollback", 1, "tester"),
    ]
    assert lines[3]["details"] == {"alias": "champion", "before": 1}
    written = (store.root / "packages" / "tiny" / "audit.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in written] == lines


def test_audit_line_lost_in_a_crash_is_written_by_the_next_change(store: Registry, packages: list[Path]) -> None:
    store.add(packages[0])
    store.promote("tiny", 1)
    log = store.root / "packages" / "tiny" / "audit.jsonl"
    content = log.read_bytes()
    log.write_bytes(content[: content.index(b"\n") + 20])  # one whole line, and a piece of the next
    assert [line["action"] for line in store.audit("tiny")] == ["add", "promote"]
    store.add(packages[1])
    written = [json.loads(line)["action"] for line in log.read_text("utf-8").splitlines()]
    assert written == ["add", "promote", "add"]


# --- the folder -------------------------------------------------------------------------------------------------------


def test_default_folder_and_empty_registry(haechi_home: Path) -> None:
    store = Registry()
    assert store.root == haechi_home / "registry" == settings.load().registry
    assert store.list() == []
    with pytest.raises(BadInput, match=r"no package 'tiny'; it has: none"):
        store.get("tiny")
    with pytest.raises(BadInput, match="no package"):
        store.promote("tiny", 1)
    assert not store.root.exists(), "reading makes no folders"


def test_damaged_state_is_named(store: Registry, packages: list[Path]) -> None:
    store.add(packages[0])
    (store.root / "packages" / "tiny" / "state.json").write_text("{}x")
    with pytest.raises(HaechiError, match=r"state\.json is damaged"):
        store.list()


def test_leftovers_of_killed_processes_are_ignored_and_swept(store: Registry, packages: list[Path]) -> None:
    store.add(packages[0])
    versions = store.root / "packages" / "tiny" / "versions"
    (versions / "2").mkdir()
    (versions / ".tmp-2-99-abcd").mkdir()
    (versions.parent / ".tmp-state.json-99-abcd").write_text("{")
    assert len(store.list()) == 1
    with pytest.raises(BadInput, match="no version 2"):
        store.get("tiny@2")
    assert store.add(packages[1]).version == 2
    assert sorted(child.name for child in versions.iterdir()) == ["1", "2"]
    assert sorted(child.name for child in versions.parent.iterdir()) == ["audit.jsonl", "state.json", "versions"]


def test_folder_that_cannot_be_written(tmp_path: Path, packages: list[Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HaechiError, match="cannot be written"):
        Registry(tmp_path / "file" / "registry").add(packages[0])


def test_locate(store: Registry, packages: list[Path], tmp_path: Path) -> None:
    version = store.add(packages[0])
    assert registry.locate(str(packages[0]), store) == packages[0]
    assert registry.locate("tiny@1", store) == version.path
    with pytest.raises(BadInput, match=r"none is not a file or folder, and registry .* has no package 'none'"):
        registry.locate("none", store)
    with pytest.raises(BadInput, match=r"none\.ZIP is not there"):
        registry.locate(str(tmp_path / "none.ZIP"), store)


# --- many processes ---------------------------------------------------------------------------------------------------


def finish(*processes: BaseProcess) -> None:
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def test_processes_adding_at_once_share_no_version(store: Registry, packages: list[Path]) -> None:
    """Four processes add the same six packages in different orders: six versions, each content once."""
    orders = [packages, packages[::-1], packages[3:] + packages[:3], packages[1::2] + packages[::2]]
    at = time.time() + 1.5
    finish(*[workers.start(workers.add_all, store.root, order, at) for order in orders])
    versions = store.list()
    assert [version.version for version in versions] == [1, 2, 3, 4, 5, 6]
    assert {version.fingerprint for version in versions} == {open_package(path).fingerprint for path in packages}
    for version in versions:
        assert open_package(version.path).fingerprint == version.fingerprint
    assert [line["version"] for line in store.audit("tiny")] == [1, 2, 3, 4, 5, 6]


def test_processes_promoting_at_once_lose_no_change(store: Registry, packages: list[Path]) -> None:
    for path in packages[:4]:
        store.add(path)
    finish(
        workers.start(workers.promote_in_turn, store.root, "tiny", [1, 2], 15),
        workers.start(workers.promote_in_turn, store.root, "tiny", [3, 4], 15),
    )
    champion = None
    for line in store.audit("tiny"):
        if line["action"] == "promote":
            assert line["details"]["before"] == champion, "each change saw the one before it"
            champion = line["version"]
    assert store.aliases("tiny") == {"champion": champion}


def test_waiting_for_the_lock_ends_with_a_sentence(
    store: Registry,
    packages: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.add(packages[0])
    ready = tmp_path / "ready"
    holder = workers.start(workers.hold_lock, store.root, ready, 30.0)
    wait_for(ready)
    monkeypatch.setattr(registry, "LOCK_SECONDS", 0.2)
    with pytest.raises(HaechiError, match=rf"in use by another process \(id {holder.pid}\)"):
        store.promote("tiny", 1)
    assert store.get("tiny") == store.list()[0].path, "reading needs no lock"
    holder.kill()
    holder.join()
    assert store.promote("tiny", 1).after == 1, "a lock dies with its process"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(("action", "after"), [("add", 4), ("promote", 2), ("rollback", 1)])
def test_kill_9_before_each_file_operation_leaves_the_old_state_or_the_new(
    store: Registry, packages: list[Path], tmp_path: Path, action: str, after: int
) -> None:
    """Every single step of a change is tried as the last one."""
    for path in packages[:3]:
        store.add(path)
    store.promote("tiny", 1)
    store.promote("tiny", 3)
    before = shutil.copytree(store.root, tmp_path / "before")
    fingerprints = {open_package(path).fingerprint for path in packages}
    seen = set()
    for step in range(100):
        shutil.rmtree(store.root)
        shutil.copytree(before, store.root)
        process = workers.start(workers.change_and_die, store.root, packages[3], action, step)
        process.join(60)
        check_whole(store, fingerprints, 1)
        seen.add(store.aliases("tiny")["champion"])
        assert len(store.list()) == (4 if store.aliases("tiny")["champion"] == 4 else 3)
        store.add(packages[4], alias="champion")  # whoever comes next finds nothing in the way
        check_whole(store, fingerprints, 1)
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
    assert process.exitcode == 0
    assert step >= 4, "the change took some file operations"
    assert seen == {3, after}


def test_kill_9_at_any_moment_leaves_no_half_package_and_no_lost_alias(
    store: Registry, packages: list[Path], tmp_path: Path
) -> None:
    """A process adds, promotes and rolls back without end; it is killed at a random moment, over and over."""
    generator = random.Random(0)
    champion = store.add(packages[0], alias="champion").version
    fingerprints = {open_package(path).fingerprint for path in packages}
    deadline = time.monotonic() + KILL_SECONDS
    kills, changes = 0, 0
    while kills < KILLS and time.monotonic() < deadline:
        # Most rounds start from an emptier store, so that kills hit `add` while it writes, too.
        if kills % 3 == 0:
            shutil.rmtree(store.root)
            champion = store.add(packages[0], alias="champion").version
        ready = tmp_path / f"ready-{kills}"
        process = workers.start(workers.change_without_end, store.root, packages, ready)
        wait_for(ready)
        time.sleep(generator.uniform(0, 0.06))
        process.kill()
        process.join()
        assert process.exitcode == -9
        kills += 1
        changes += check_whole(store, fingerprints, champion)
    assert kills >= 10
    assert changes > kills, "the killed processes did get some work done"


def check_whole(store: Registry, fingerprints: set[str], first_champion: int) -> int:
    """Everything the registry lists is there and whole, and its audit tells how it came about; returns its length."""
    versions = store.list()
    assert [version.version for version in versions] == list(range(1, len(versions) + 1))
    for version in versions:
        opened = open_package(version.path)
        assert opened.fingerprint == version.fingerprint
        assert opened.fingerprint in fingerprints
    aliases: dict[str, int] = {}
    added: list[int] = []
    for line in store.audit("tiny"):
        if line["action"] == "add":
            added.append(line["version"])
        else:
            assert line["details"]["before"] == aliases.get(line["details"]["alias"])
            aliases[line["details"]["alias"]] = line["version"]
            if aliases.get("challenger") == aliases.get("champion") and line["action"] == "promote":
                del aliases["challenger"]
    assert added == [version.version for version in versions]
    assert store.aliases("tiny") == aliases
    assert "champion" in aliases
    assert first_champion in {version.version for version in versions}
    return len(store.audit("tiny"))
