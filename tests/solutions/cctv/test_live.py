"""The live hub and its reader: what is drawn, what is hidden, what costs nothing; and edits of the site file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BadInput
from shared.serving.errors import NotFound
from solutions.cctv import config, console_site
from solutions.cctv.config import Privacy
from solutions.cctv.live import LiveHub, LiveWatcher, Variant, hidden
from solutions.cctv.scene import Signal, View
from tests.solutions.cctv.pictures import SIZE, picture
from tests.solutions.cctv.watched import SITE, decoded, scene


def site_in(folder: Path, text: str = SITE) -> Path:
    path = folder / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def published(folder: Path, watcher: LiveWatcher, variant: Variant, signals: tuple[Signal, ...] = ()) -> np.ndarray:
    """The picture that a watcher of this view gets."""
    site = config.load(site_in(folder))
    view = View.of(site.cameras["door"], SIZE)
    watcher.folder.mkdir(exist_ok=True)
    watcher.watch("door", variant)
    with LiveHub(watcher.folder, site.privacy, per_second=1000) as hub:
        for index in range(2000):
            hub.publish("door", scene("door", index), signals, view)
            found = watcher.newer("door", variant)
            if found is not None:
                return decoded(found[1])
            time.sleep(0.005)
    raise AssertionError("no picture was published")


def test_nothing_is_drawn_while_nobody_watches(tmp_path: Path) -> None:
    site = config.load(site_in(tmp_path))
    view = View.of(site.cameras["door"], SIZE)
    with LiveHub(tmp_path / "live", per_second=1000) as hub:
        for index in range(50):
            hub.publish("door", scene("door", index), (), view)
        assert list((tmp_path / "live").iterdir()) == []


def test_a_watcher_gets_what_is_seen(tmp_path: Path) -> None:
    watcher = LiveWatcher(tmp_path / "live")
    shown = published(tmp_path, watcher, "clear")
    assert shown.shape == (SIZE[1], SIZE[0], 3)
    plain = picture().astype(int)
    changed = np.abs(shown.astype(int) - plain).max(axis=2) > 60
    assert changed[60:140, 98:103].mean() > 0.3, "the person's box"
    assert changed[36:162, 222:227].mean() > 0.3, "the line"
    assert changed[34:38, 40:180].mean() > 0.3, "the zone's upper edge"
    assert not (tmp_path / "live" / "door.hidden.jpg").exists(), "only the view that is watched is made"
    undrawn = published(tmp_path, watcher, "clear_plain")
    assert np.abs(undrawn[:, 200:].astype(int) - plain[:, 200:]).max() < 10


def test_a_signalled_zone_turns_red(tmp_path: Path) -> None:
    watcher = LiveWatcher(tmp_path / "live")
    quiet = published(tmp_path, watcher, "clear")
    signal = Signal(type="intrusion", subject=3, since_s=0.0, zone="entry", box=(100, 60, 140, 140))
    alarmed = published(tmp_path, watcher, "clear", (signal,))

    def red(image: np.ndarray) -> int:
        return int(((image[..., 2] > 150) & (image[..., 1] < 110) & (image[..., 0] < 110)).sum())

    assert red(alarmed) > red(quiet) + 200


def test_the_hidden_view_hides_persons(tmp_path: Path) -> None:
    watcher = LiveWatcher(tmp_path / "live")
    inside = (slice(70, 130), slice(110, 130))
    assert published(tmp_path, watcher, "clear")[inside].std() > 80
    assert published(tmp_path, watcher, "hidden")[inside].std() < 40


@pytest.mark.parametrize("how", ["blur", "pixelate"])
def test_faces_alone_can_be_hidden(how: Literal["blur", "pixelate"]) -> None:
    box = (100.0, 60.0, 140.0, 140.0)
    shown = hidden(picture(), [box, (-50.0, -50.0, 5.0, 5.0), (7.0, 7.0, 7.0, 7.0)], Privacy(hide="faces", how=how))
    assert shown[62:80, 104:136].std() < 40
    np.testing.assert_array_equal(shown[100:140, 100:140], picture()[100:140, 100:140])
    np.testing.assert_array_equal(hidden(picture(), [box], Privacy()), picture())


def test_what_is_old_is_not_shown_as_live(tmp_path: Path) -> None:
    watcher = LiveWatcher(tmp_path)
    with LiveHub(tmp_path) as hub:
        hub.report("door", {"state": "live", "fps": 5.0})
        told = watcher.status("door")
        assert told is not None
        assert told["state"] == "live"
        assert told["at"]
        (tmp_path / "door.clear.jpg").write_bytes(b"a picture")
        stamp, _ = watcher.newer("door", "clear") or (0, b"")
        assert stamp
        assert watcher.newer("door", "clear", stamp) is None
        long_ago = time.time() - 60
        os.utime(tmp_path / "door.json", (long_ago, long_ago))
        os.utime(tmp_path / "door.clear.jpg", (long_ago, long_ago))
        assert watcher.status("door") is None
        assert watcher.newer("door", "clear") is None
    assert not (tmp_path / "door.clear.jpg").exists(), "a hub that ends leaves no picture behind"


def test_a_torn_status_is_no_status(tmp_path: Path) -> None:
    (tmp_path / "door.json").write_text('{"state": "li')
    assert LiveWatcher(tmp_path).status("door") is None
    assert LiveWatcher(tmp_path / "missing").status("door") is None


# -- the site file ----------------------------------------------------------------------------------------------------


def test_a_drawing_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    path = site_in(tmp_path)
    before = console_site.read(path)
    zones = {
        "entry": [(0.1, 0.2), (0.6, 0.2), (0.6, 0.9), (0.1, 0.9)],
        "till": [(0.5, 0.5), (0.9, 0.5), (0.7, 0.88888)],
    }
    after, lost = console_site.draw(path, "door", {"zones": zones}, before.version)
    assert not lost
    text = path.read_text()
    for kept in ("# The shop on the corner.", "  # over the door", "    # What is announced."):
        assert kept in text
    site = config.load(path)
    assert site == after.site
    assert site.cameras["door"].zones["till"] == [(0.5, 0.5), (0.9, 0.5), (0.7, 0.8889)]
    assert site.cameras["yard"] == before.site.cameras["yard"]
    assert after.version != before.version


@pytest.mark.parametrize(
    ("text", "comments"),
    [
        ("cameras: {door: {source: a.mp4, zones: {a: [[0, 0], [1, 0], [1, 1]]}}} # all in one\n", False),
        ("# top\ncameras:\n  door: &door {source: a.mp4}\n  copy: *door\n", False),
        ("# top\ncameras:\n  door:\n    source: a.mp4", True),
        ("# top\ncameras:\n  door:\n    source: a.mp4\n    zones: {a: [[0, 0], [1, 0], [1, 1]]} # one\n", True),
        ("# top\ncameras:\n  other: {source: b}\n  door:\n    zones:\n      a:\n      - [0, 0]\n      - [1, 0]\n"
         "      - [1, 1]\n\n  # the rest\n    source: a.mp4\nname: x\n", True),
    ],
)  # fmt: skip
def test_any_form_of_the_file_can_be_drawn_into(tmp_path: Path, text: str, comments: bool) -> None:
    path = site_in(tmp_path, text)
    before = console_site.read(path)
    zones = {"b": [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)]}
    after, lost = console_site.draw(path, "door", {"zones": zones}, before.version)
    assert config.load(path) == after.site
    assert after.site.cameras["door"].zones == zones
    others = {name: camera for name, camera in before.site.cameras.items() if name != "door"}
    assert {name: camera for name, camera in after.site.cameras.items() if name != "door"} == others
    assert ("# top" in path.read_text()) == comments
    assert lost or comments, "who loses comments is told"


def test_what_is_refused_leaves_the_file_alone(tmp_path: Path) -> None:
    path = site_in(tmp_path)
    version = console_site.read(path).version
    content = path.read_bytes()
    with pytest.raises(BadInput, match="rule intrusion names 'entry'"):
        console_site.draw(path, "door", {"zones": {}}, version)
    with pytest.raises(BadInput, match="camera door"):
        console_site.draw(path, "door", {"lines": {"a": [(0.0, 0.0)]}}, version)
    with pytest.raises(NotFound):
        console_site.draw(path, "attic", {"lines": {}}, version)
    with pytest.raises(console_site.Changed):
        console_site.draw(path, "door", {"lines": {}}, "another")
    assert path.read_bytes() == content


_PLACE = st.floats(0, 1, allow_nan=False).map(lambda value: round(value, 4))
_NAME = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
_SHAPES = st.dictionaries(_NAME, st.lists(st.tuples(_PLACE, _PLACE), min_size=3, max_size=6), max_size=4)


@settings(max_examples=40, deadline=None)
@given(first=_SHAPES, second=_SHAPES)
def test_what_is_drawn_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, first: console_site.Places, second: console_site.Places
) -> None:
    path = site_in(tmp_path_factory.mktemp("drawn"))
    file = console_site.read(path)
    for shapes in (first, second):
        file, _ = console_site.draw(path, "yard", {"zones": shapes, "private": shapes}, file.version)
        camera = config.load(path).cameras["yard"]
        assert camera.zones == camera.private == shapes
        assert config.load(path).cameras["door"].rules
