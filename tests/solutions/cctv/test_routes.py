"""The CCTV HTTP API on a real server: roles, live pictures, drawings, events with evidence, figures."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from solutions.cctv import config
from solutions.cctv.routes import router_for
from tests.solutions.cctv.watched import NOW, Watched, decoded, publishing, watched


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path, [router_for]) as started:
        yield started


ZONES = {"entry": [[0.1, 0.2], [0.6, 0.2], [0.6, 0.9]], "till": [[0.5, 0.5], [0.9, 0.5], [0.7, 0.8]]}


# -- cameras ----------------------------------------------------------------------------------------------------------


def test_cameras_and_how_they_are(server: Watched) -> None:
    with server.client("viewer") as client, publishing(server):
        _wait_live(client)
        door, yard = client.get("/cameras").json()
        assert (door["name"], door["state"], door["fps"], door["dropped"]) == ("door", "live", 5.0, 1)
        assert (yard["name"], yard["state"], yard["fps"]) == ("yard", "unknown", None)
        assert client.get("/cameras/door").json()["name"] == "door"
        assert client.get("/cameras/attic").status_code == 404


def test_strangers_see_nothing(server: Watched) -> None:
    paths = ("/cameras", "/cameras/door/snapshot.jpg", "/cameras/door/live", "/cameras/door/drawing", "/events")
    for path in (*paths, "/counts?since=2026-01-01T00:00:00Z", "/events/a/clip.mp4", "/cameras/door/heatmap.png"):
        assert httpx.get(f"{server.url}/api/cctv{path}").status_code == 401, path


def test_a_snapshot_is_made_when_somebody_asks(server: Watched) -> None:
    with server.client("operator") as client, publishing(server):
        _wait_live(client)
        answer = client.get("/cameras/door/snapshot.jpg")
        assert answer.status_code == 200
        assert decoded(answer.content).shape == (180, 320, 3)
        tag = answer.headers["etag"]
        newer = client.get("/cameras/door/snapshot.jpg", headers={"If-None-Match": tag})
        assert newer.status_code in (200, 304)
        missing = client.get("/cameras/yard/snapshot.jpg")
        assert missing.status_code == 503
        assert "yard" in missing.json()["error"]
    with server.client("operator") as client:
        last = client.get("/cameras/door/snapshot.jpg")
        again = client.get("/cameras/door/snapshot.jpg", headers={"If-None-Match": last.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_a_live_stream_goes_on(server: Watched) -> None:
    with (
        server.client("operator") as client,
        publishing(server),
        client.stream("GET", "/cameras/door/live") as answer,
    ):
        assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=haechi"
        buffered = b""
        for part in answer.iter_bytes():
            buffered += part
            if buffered.count(b"--haechi\r\n") > 3:
                break
    first = buffered.split(b"--haechi\r\n")[1]
    head, content = first.split(b"\r\n\r\n", 1)
    assert b"Content-Type: image/jpeg" in head
    assert decoded(content[:-2]).shape == (180, 320, 3)


def test_a_stream_ends_when_its_key_is_revoked(server: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solutions.cctv.routes._ASK_AGAIN_S", 0.1)
    store = server.running.state.auth.store
    with server.client("operator") as client, publishing(server), client.stream("GET", "/cameras/door/live") as answer:
        parts = answer.iter_bytes()
        assert next(parts)
        store.revoke("some operator")
        for _ in parts:
            pass  # ends by itself; the test's time limit says otherwise


def test_privacy_depends_on_the_role(server: Watched) -> None:
    with server.client("operator") as operator, server.client("viewer") as viewer, publishing(server):
        _wait_live(viewer)
        inside = (slice(70, 130), slice(110, 130))
        assert decoded(operator.get("/cameras/door/snapshot.jpg").content)[inside].std() > 80
        assert decoded(viewer.get("/cameras/door/snapshot.jpg").content)[inside].std() < 40


# -- drawings ---------------------------------------------------------------------------------------------------------


def test_drawing_changes_the_site_file(server: Watched) -> None:
    with server.client() as client:
        now = client.get("/cameras/door/drawing").json()
        assert list(now["zones"]) == ["entry"]
        answer = client.put("/cameras/door/drawing", json={"version": now["version"], "zones": ZONES})
        assert answer.status_code == 200, answer.text
        assert answer.json()["zones"] == ZONES
        assert answer.json()["note"] is None
        assert list(config.load(server.site).cameras["door"].zones) == ["entry", "till"]
        assert "# What is announced." in server.site.read_text()
        late = client.put("/cameras/door/drawing", json={"version": now["version"], "lines": {}})
        assert late.status_code == 409
        assert list(config.load(server.site).cameras["door"].lines) == ["gate"]
        assert client.get("/cameras/door/drawing").json()["version"] == answer.json()["version"]
    done = server.running.state.records.audit_entries(1)[0]
    assert (done.who, done.action, done.subject) == ("some engineer", "cctv.draw", "door")


@pytest.mark.parametrize(
    "change",
    [
        {"zones": {"entry": [[0.1, 0.2], [0.6, 0.2]]}},
        {"zones": {"entry": [[0.1, 0.2], [1.6, 0.2], [0.5, 0.5]]}},
        {"zones": {"Entry!": [[0.1, 0.2], [0.6, 0.2], [0.5, 0.5]]}},
        {"zones": {}},
        {"lines": {"gate": [[0.1, 0.2], [0.6, 0.2], [0.5, 0.5]]}},
        {"rules": []},
    ],
)
def test_drawings_that_are_refused(server: Watched, change: dict[str, Any]) -> None:
    before = server.site.read_bytes()
    with server.client() as client:
        version = client.get("/cameras/door/drawing").json()["version"]
        answer = client.put("/cameras/door/drawing", json={"version": version, **change})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]
    assert server.site.read_bytes() == before


def test_only_engineers_draw(server: Watched) -> None:
    with server.client("operator") as client:
        version = client.get("/cameras/door/drawing").json()["version"]
        assert client.put("/cameras/door/drawing", json={"version": version, "lines": {}}).status_code == 403


def test_a_broken_site_file_is_said(server: Watched) -> None:
    server.site.write_text("cameras: {door: {source: 7, sources: 8}}")
    with server.client() as client:
        answer = client.get("/cameras")
        assert answer.status_code == 503
        assert "sources" in answer.json()["error"]


# -- events -----------------------------------------------------------------------------------------------------------


def test_events_are_listed_newest_first_in_pages(server: Watched) -> None:
    for index in range(5):
        server.announce(f"e{index}", start=NOW - dt.timedelta(minutes=10 - index))
    with server.client("viewer") as client:
        first = client.get("/events", params={"limit": 3}).json()
        assert [one["id"] for one in first["events"]] == ["e4", "e3", "e2"]
        rest = client.get("/events", params={"limit": 3, "before": first["next_before"]}).json()
        assert [one["id"] for one in rest["events"]] == ["e1", "e0"]
        assert rest["next_before"] is None
        one = client.get("/events/e2").json()
        assert one == first["events"][2]
        assert (one["state"], one["why"], one["clip_url"]) == ("new", {"inside_s": 0.4, "score": 0.81}, None)
        assert client.get("/events/e9").status_code == 404
        assert client.get("/events", params={"before": "what?"}).status_code == 400


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ({"camera": "yard"}, ["b"]),
        ({"type": "line_crossing"}, ["b"]),
        ({"zone": "gate"}, ["b"]),
        ({"zone": "entry"}, ["a"]),
        ({"colour": "red"}, ["a"]),
        ({"through": "till"}, ["b"]),
        ({"severity": "info"}, ["b"]),
        ({"label": "car"}, ["b"]),
        ({"state": "new"}, ["b", "a"]),
        ({"locked": "true"}, []),
        ({"since": (NOW - dt.timedelta(minutes=2)).isoformat()}, ["b"]),
        ({"until": (NOW - dt.timedelta(minutes=2)).isoformat()}, ["a"]),
    ],
)
def test_events_are_searched(server: Watched, search: dict[str, str], found: list[str]) -> None:
    server.announce("a")
    crossing = {"type": "line_crossing", "zone": None, "line": "gate", "direction": "left", "severity": "info"}
    server.announce(
        "b",
        camera="yard",
        start=NOW - dt.timedelta(minutes=1),
        colours=(),
        labels=("car",),
        through=("till",),
        **crossing,
    )
    with server.client("viewer") as client:
        answer = client.get("/events", params=search)
        assert answer.status_code == 200, answer.text
        assert [one["id"] for one in answer.json()["events"]] == found


@pytest.mark.parametrize(
    "search", [{"since": "2026-01-01T00:00:00"}, {"since": "1700000000"}, {"state": "odd"}, {"limit": "0"}]
)
def test_searches_that_are_refused(server: Watched, search: dict[str, str]) -> None:
    with server.client("viewer") as client:
        answer = client.get("/events", params=search)
        assert answer.status_code == 400
        assert answer.json()["error"]


def test_reviews_and_locks(server: Watched) -> None:
    server.announce("a")
    with server.client("operator") as client, server.client("viewer") as viewer:
        assert viewer.post("/events/a/review", json={"verdict": "approve"}).status_code == 403
        assert viewer.post("/events/a/lock", json={"locked": True}).status_code == 403
        empty = client.post("/events/a/review", json={"verdict": "dismiss", "reason": "  "})
        assert empty.status_code == 400
        assert "reason" in empty.json()["error"]
        done = client.post("/events/a/review", json={"verdict": "dismiss", "reason": "a shadow"}).json()
        assert done["state"] == "dismissed"
        assert [(one["who"], one["reason"]) for one in done["reviews"]] == [("some operator", "a shadow")]
        assert client.post("/events/a/lock", json={"locked": True}).json()["locked"] is True
        assert viewer.get("/events", params={"locked": "true"}).json()["events"][0]["id"] == "a"
        assert client.post("/events/a/lock", json={"locked": False}).json()["locked"] is False
        assert client.post("/events/zz/review", json={"verdict": "approve"}).status_code == 404


def test_evidence_by_role_and_in_parts(server: Watched) -> None:
    server.announce("a", clip=True)
    server.announce("b", has_snapshot=False)
    with server.client("operator") as client, server.client("viewer") as viewer:
        event = client.get("/events/a").json()
        whole = client.get("/events/a/clip.mp4")
        assert event["clip_url"] == "/api/cctv/events/a/clip.mp4"
        assert whole.headers["content-type"] == "video/mp4"
        part = client.get("/events/a/clip.mp4", headers={"Range": "bytes=10-29"})
        assert (part.status_code, part.content) == (206, whole.content[10:30])
        for wrong, status in (("bytes=99999999-", 416), ("bytes=x-y", 400)):
            refused = client.get("/events/a/clip.mp4", headers={"Range": wrong})
            assert (refused.status_code, list(refused.json())) == (status, ["error"])
        assert viewer.get("/events/a/clip.mp4").status_code == 404, "no hidden copy, so nothing is shown"
        inside = (slice(70, 130), slice(110, 130))
        assert decoded(client.get("/events/a/snapshot.jpg").content)[inside].std() > 80
        assert decoded(viewer.get("/events/a/snapshot.jpg").content).max() < 10
        assert client.get("/events/b/snapshot.jpg").status_code == 404
        assert client.get("/events/b/clip.mp4").status_code == 404


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "a.mp4%2f.."])
def test_no_path_leads_out_of_the_evidence(server: Watched, name: str) -> None:
    with server.client("admin") as client:
        for kind in ("clip.mp4", "snapshot.jpg"):
            assert client.get(f"/events/{name}/{kind}").status_code == 404


# -- figures ----------------------------------------------------------------------------------------------------------


def test_counts_over_time(server: Watched) -> None:
    hour = NOW.replace(minute=0, second=0) - dt.timedelta(hours=3)
    for index, minutes in enumerate((5, 20, 70)):
        server.announce(f"e{index}", start=hour + dt.timedelta(minutes=minutes))
    server.announce("x", type="line_crossing", line="gate", zone=None, direction="left", start=hour)
    with server.client("viewer") as client:
        answer = client.get("/counts", params={"since": hour.isoformat(), "camera": "door"}).json()
        assert answer["bucket_s"] == 3600
        counted = [(one["type"], one["events"]) for one in answer["events"]]
        assert sorted(counted) == [("intrusion", 1), ("intrusion", 2), ("line_crossing", 1)]
        assert [(one["line"], one["direction"], one["crossings"]) for one in answer["crossings"]] == [
            ("gate", "left", 1)
        ]
        assert client.get("/counts", params={"since": "2000-01-01T00:00:00Z"}).status_code == 400
        late = {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
        assert client.get("/counts", params=late).status_code == 400


def test_a_heat_map_is_clear_where_nothing_was(server: Watched) -> None:
    with server.client("viewer") as client:
        answer = client.get("/cameras/door/heatmap.png")
        assert answer.headers["content-type"] == "image/png"
        image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert image.shape == (360, 640, 4)
        assert image[190, 240, 3] > 150
        assert image[20, 20, 3] == 0
        assert client.get("/cameras/attic/heatmap.png").status_code == 404


def test_without_a_site_there_is_nothing_to_see(tmp_path: Path) -> None:
    with watched(tmp_path, [router_for]) as server, server.client("admin") as client:
        (server.home / "cctv" / "current.json").unlink()
        assert client.get("/cameras").json() == []
        assert client.get("/cameras/door").status_code == 404
        assert client.get("/cameras/door/snapshot.jpg").status_code == 404


def _wait_live(client: httpx.Client) -> None:
    for _ in range(200):
        if client.get("/cameras").json()[0]["state"] == "live":
            return
    raise AssertionError("the camera was never live")
