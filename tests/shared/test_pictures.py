"""The bounded folder of pictures."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
from pathlib import Path

import pytest

from shared.errors import HaechiError
from shared.pictures import PictureStore

PRINT = "ab12" * 16


def kept_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_parts_come_back(tmp_path: Path) -> None:
    store = PictureStore(tmp_path / "pictures")
    assert store.read(7, PRINT, "picture") is None
    assert store.keep(7, PRINT, {"picture": b"\x89PNG", "heatmap": b""})
    again = PictureStore(tmp_path / "pictures")
    assert again.read(7, PRINT, "picture") == b"\x89PNG"
    assert again.read(7, PRINT, "heatmap") == b""
    assert again.read(7, PRINT, "thumbnail") is None


def test_the_same_number_in_another_database_shows_nothing(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    store.keep(1, PRINT, {"picture": b"x"})
    assert store.read(1, "cd34" * 16, "picture") is None
    assert store.read(1, "../../../etc", "picture") is None


def test_the_oldest_make_room(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, max_bytes=100_000)
    numbers = [*range(1, 6), *range(1990, 2050)]
    for number in numbers:
        assert store.keep(number, PRINT, {"picture": bytes(5000)})
        assert kept_bytes(tmp_path) <= 100_000
    kept = [number for number in numbers if store.read(number, PRINT, "picture") is not None]
    assert kept == list(range(kept[0], 2050)), "the newest, without a gap"
    assert len(kept) >= 15
    assert not (tmp_path / "0").exists(), "emptied folders go"


def test_the_bound_holds_over_a_restart_and_what_was_left_behind(tmp_path: Path) -> None:
    first = PictureStore(tmp_path, max_bytes=100_000)
    for number in range(1, 15):
        first.keep(number, PRINT, {"picture": bytes(5000)})
    (tmp_path / "0" / ".tmp-killed").write_bytes(bytes(20_000))
    os.utime(tmp_path / "0" / ".tmp-killed", (0, 0))
    second = PictureStore(tmp_path, max_bytes=60_000)
    second.keep(15, PRINT, {"picture": bytes(5000)})
    assert kept_bytes(tmp_path) <= 60_000
    assert not (tmp_path / "0" / ".tmp-killed").exists()
    assert second.read(15, PRINT, "picture") == bytes(5000)


def test_one_larger_than_the_bound_is_not_kept_and_costs_no_other(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, max_bytes=10_000)
    store.keep(1, PRINT, {"picture": bytes(100)})
    assert not store.keep(2, PRINT, {"picture": bytes(20_000)})
    assert store.read(1, PRINT, "picture") == bytes(100)


def test_a_damaged_file_reads_as_missing(tmp_path: Path) -> None:
    store = PictureStore(tmp_path)
    store.keep(1, PRINT, {"picture": b"x" * 1000})
    (path,) = tmp_path.rglob("*.zip")
    path.write_bytes(path.read_bytes()[:200])
    assert store.read(1, PRINT, "picture") is None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(HaechiError, match=r"could not be written: .*; free some space\.") as caught:
        PictureStore(tmp_path / "file" / "pictures").keep(1, PRINT, {"picture": b"x"})
    assert "\n" not in str(caught.value)


def test_threads_keep_within_the_bound(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, max_bytes=50_000)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda number: store.keep(number, PRINT, {"picture": bytes(1000)}), range(1, 200)))
    assert kept_bytes(tmp_path) <= 50_000
    shutil.rmtree(tmp_path)
    assert store.read(199, PRINT, "picture") is None
