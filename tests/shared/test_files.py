"""Writing in one step: whatever goes wrong, and whenever the process dies, the old content is there or the new."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from shared import files
from shared.errors import HaechiError
from tests.shared import workers

one_step = pytest.mark.skipif(sys.platform != "linux", reason="names are exchanged in one step on Linux only")


def put(destination: Path, text: str, *, replace: bool = False) -> None:
    """A folder with one file at the top and one further in, both saying `text`."""
    with files.new_folder(destination, replace=replace) as folder:
        (folder / "inner").mkdir()
        (folder / "top").write_text(text)
        (folder / "inner" / "deep").write_text(text)


def content(destination: Path) -> set[str]:
    return {(destination / name).read_text() for name in ("top", "inner/deep")}


def litter(folder: Path) -> list[str]:
    return [child.name for child in folder.iterdir() if child.name.startswith(files.TEMPORARY_PREFIX)]


def replace_and_die(destination: Path, step: int) -> None:
    """Put a new folder in the place of the old one, but die before file operation number `step`."""
    workers.die_before(destination.parent, step)
    put(destination, "new", replace=True)


def stay_inside(destination: Path, ready: Path) -> None:
    """Begin to write a folder and never end."""
    with files.new_folder(destination) as folder:
        (folder / "top").write_text("unfinished")
        ready.touch()
        time.sleep(600)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    put(tmp_path / "made", "first")
    assert content(tmp_path / "made") == {"first"}
    with pytest.raises(ZeroDivisionError), files.new_folder(tmp_path / "other") as folder:
        (folder / "top").write_text(str(1 / 0))
    assert not (tmp_path / "other").exists()
    assert litter(tmp_path) == []


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    put(tmp_path / "made", "first")
    with pytest.raises(HaechiError, match="exists already"):
        put(tmp_path / "made", "second")
    assert content(tmp_path / "made") == {"first"}
    put(tmp_path / "made", "second", replace=True)
    assert content(tmp_path / "made") == {"second"}
    assert litter(tmp_path) == []


def test_a_file_and_a_link_are_replaced_too_and_the_links_target_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    put(tmp_path / "target", "target")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling"):
        with pytest.raises(HaechiError, match="exists already"):
            put(tmp_path / name, "new")
        put(tmp_path / name, "new", replace=True)
        assert not (tmp_path / name).is_symlink()
        assert content(tmp_path / name) == {"new"}
    assert content(tmp_path / "target") == {"target"}
    assert litter(tmp_path) == []


def test_without_an_exchange_of_names_two_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda: lambda _new, _old: False)
    put(tmp_path / "made", "first")
    put(tmp_path / "made", "second", replace=True)
    assert content(tmp_path / "made") == {"second"}
    assert litter(tmp_path) == []


@pytest.mark.parametrize("inner", ["made", "a/b/made"])
def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path: Path, inner: str) -> None:
    (tmp_path / "plain").write_text("not a folder")
    for write in (lambda path: files.write_text(path, "x"), lambda path: put(path, "x")):
        with pytest.raises(HaechiError, match=r"plain.*could not be written: (Not a directory|File exists)"):
            write(tmp_path / "plain" / inner)
    assert (tmp_path / "plain").read_text() == "not a folder"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    for write in (lambda path: files.write_text(path, "x"), lambda path: put(path, "x")):
        with pytest.raises(HaechiError, match="Permission denied"):
            write(tmp_path / "locked" / "made")


@one_step
def test_kill_9_while_replacing_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Every single file operation is tried as the last one; under the name there is always one or the other, whole."""
    found = []
    for step in range(100):
        destination = tmp_path / str(step) / "made"
        put(destination, "old")
        process = workers.start(replace_and_die, destination, step)
        process.join(60)
        found.append(content(destination))
        put(destination, "after", replace=True)  # a later run is not disturbed, and clears away what was left
        assert content(destination) == {"after"}
        assert litter(destination.parent) == []
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
    assert process.exitcode == 0
    assert found[0] == {"old"}
    assert found[-1] == {"new"}
    assert {frozenset(texts) for texts in found} == {frozenset({"old"}), frozenset({"new"})}
    assert len(found) > 6  # mkdir twice, two files, the exchange, and the old one's removal


def test_a_writer_at_work_is_not_cleared_away(tmp_path: Path) -> None:
    destination, ready = tmp_path / "made", tmp_path / "ready"
    writer = workers.start(stay_inside, destination, ready)
    try:
        while not ready.exists():
            assert writer.is_alive()
            time.sleep(0.01)
        put(destination, "first")
        assert len(litter(tmp_path)) == 1
        assert content(destination) == {"first"}
    finally:
        writer.kill()
        writer.join(60)
    put(destination, "second", replace=True)
    assert litter(tmp_path) == []


@one_step
def test_there_is_always_something_under_the_name(tmp_path: Path) -> None:
    """A reader that looks all the time, while the folder is replaced a hundred times, never finds nothing."""
    destination = tmp_path / "made"
    put(destination, "0")
    missing: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            if not os.path.exists(destination):
                missing.append("gone")

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(100):
        put(destination, str(number), replace=True)
    done.set()
    reader.join()
    assert content(destination) == {"99"}
    assert missing == []
