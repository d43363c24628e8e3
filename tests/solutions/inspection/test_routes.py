"""The inspection API over real HTTP, with a real ONNX model behind a real queue and real records."""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from shared.images import decode_image
from shared.pictures import PictureStore
from shared.records import Event, Records, Result
from shared.serving.limits import Limits
from solutions.inspection.routes import router_for
from solutions.inspection.service import InspectionService, clean_file_name
from tests.solutions.inspection.conftest import StartServer
from tests.solutions.inspection.served import THRESHOLDS, Server, picture, write_deviation_package

INSPECT = "/api/inspection/inspect"
RESULTS = "/api/inspection/results"


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client("operator") as made:
        yield made


def send(client: httpx.Client, content: bytes, name: str = "part.png", **fields: str) -> httpx.Response:
    return client.post(INSPECT, files={"image": (name, content)}, data=fields)


def sentence(answer: httpx.Response) -> str:
    """The error of an answer, after checking that it is one plain sentence."""
    words = answer.json()["error"]
    assert isinstance(words, str)
    assert words.endswith(".")
    assert "\n" not in words
    assert "Traceback" not in words
    return words


# -- deciding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("defect", "verdict", "regions"), [(0, "OK", 0), (60, "REVIEW", 0), (110, "NG", 1)])
def test_three_verdicts(client: httpx.Client, defect: int, verdict: str, regions: int) -> None:
    answer = send(client, picture(defect), heatmap="false")
    assert answer.status_code == 200
    body = answer.json()
    assert body["verdict"] == verdict
    assert body["score"] == pytest.approx(defect, abs=5)
    assert body["thresholds"] == THRESHOLDS
    assert len(body["regions"]) == regions
    assert (body["file"], body["model"], body["version"]) == ("part.png", "washer", "1")
    assert (body["width"], body["height"]) == (320, 240)
    assert 0 < body["latency_ms"] < 60_000
    assert body["heatmap"] is None


def test_boxes_are_in_pixels_of_the_picture_as_sent(client: httpx.Client) -> None:
    for size in ((320, 240), (1600, 1200)):
        (region,) = send(client, picture(110, size=size), heatmap="false").json()["regions"]
        scale = size[0] / 320
        expected = [200 * scale, 100 * scale, 240 * scale, 140 * scale]
        assert region["box"] == pytest.approx(expected, abs=10 * scale)
        assert region["area"] == pytest.approx(40 * 40 * scale**2, rel=0.6)


def test_the_heat_map_lies_over_the_picture(client: httpx.Client) -> None:
    body = send(client, picture(110)).json()
    drawn = decode_image(base64.b64decode(body["heatmap"]), "heat map")
    sent = decode_image(picture(110), "picture")
    assert drawn.shape == sent.shape
    changed = np.abs(drawn.astype(int) - sent).max(axis=2)
    assert changed[105:135, 205:235].min() > 60, "the defect is covered"
    assert changed[:60].max() == 0, "the rest shows the picture as it is"
    fetched = client.get(body["heatmap_url"])
    assert fetched.headers["content-type"] == "image/png"
    again = decode_image(fetched.content, "heat map")
    assert np.abs(again.astype(int) - drawn).max() <= 3, "what was kept shows the same"


def test_a_large_picture_gives_a_heat_map_of_screen_size(client: httpx.Client) -> None:
    body = send(client, picture(110, ".jpg", (3000, 2000))).json()
    drawn = decode_image(base64.b64decode(body["heatmap"]), "heat map")
    assert drawn.shape == (533, 800, 3)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".tif"])
def test_every_format_can_be_looked_at_afterwards(client: httpx.Client, extension: str) -> None:
    body = send(client, picture(110, extension), f"부품{extension}", heatmap="false").json()
    assert (body["verdict"], body["file"]) == ("NG", f"부품{extension}")
    shown = client.get(body["picture_url"])
    assert shown.headers["content-type"] == ("image/jpeg" if extension == ".jpg" else "image/png")
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "private" in shown.headers["cache-control"]
    assert decode_image(shown.content, "shown").shape == (240, 320, 3)
    small = client.get(f"{RESULTS}/{body['id']}/thumbnail.jpg")
    assert decode_image(small.content, "small").shape == (144, 192, 3)


def test_the_field_may_be_called_file_too(client: httpx.Client) -> None:
    assert client.post(INSPECT, files={"file": ("part.png", picture())}).json()["verdict"] == "OK"


def test_a_model_is_named_where_there_are_several(start_server: StartServer, washer: Path, tmp_path: Path) -> None:
    other = write_deviation_package(tmp_path, "gasket")
    with start_server(packages=[washer, other]) as server, server.client() as client:
        assert [model["name"] for model in client.get("/api/inspection/models").json()] == ["gasket", "washer"]
        answer = send(client, picture())
        assert answer.status_code == 400
        assert "gasket, washer" in sentence(answer)
        assert send(client, picture(), model="gasket").json()["model"] == "gasket"
        answer = send(client, picture(), model="bolt")
        assert answer.status_code == 404
        assert "bolt" in sentence(answer)


def test_a_model_without_its_thresholds(start_server: StartServer, tmp_path: Path) -> None:
    half = write_deviation_package(tmp_path, "half", {"review": 40.0, "pixel": 60.0})
    with start_server(packages=[half]) as server, server.client() as client:
        answer = send(client, picture())
        assert answer.status_code == 500
        assert "threshold ng" in sentence(answer)
        assert client.get(RESULTS).json()["results"] == []


def test_no_inspection_model(start_server: StartServer) -> None:
    with start_server(packages=[], registry=False) as server, server.client() as client:
        answer = send(client, picture())
        assert answer.status_code == 404
        assert "no inspection model" in sentence(answer)
        assert client.get("/api/inspection/models").json() == []


def test_many_programs_at_once(server: Server, client: httpx.Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: send(client, picture(110 * (i % 2)), f"{i}.png", heatmap="false"), range(40)))
    assert [answer.json()["verdict"] for answer in answers] == ["OK", "NG"] * 20
    page = client.get(RESULTS, params={"limit": 100}).json()
    assert {result["file"] for result in page["results"]} == {f"{i}.png" for i in range(40)}


# -- what cannot be decided -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is no picture",
        picture()[:2000],
        b"GIF89a" + bytes(100),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
    ids=["empty", "text", "truncated", "gif", "svg"],
)
def test_what_is_no_picture(client: httpx.Client, content: bytes) -> None:
    answer = send(client, content, "line-3.png")
    assert answer.status_code == 400
    assert "line-3.png" in sentence(answer)
    assert client.get(RESULTS).json()["results"] == []


def test_the_field_is_missing(client: httpx.Client) -> None:
    answer = client.post(INSPECT, data={"model": "washer"})
    assert answer.status_code == 400
    assert "field image" in sentence(answer)


def test_pixels_are_counted_before_decoding(start_server: StartServer) -> None:
    with start_server(limits=Limits(max_pixels=1_000_000)) as server, server.client() as client:
        assert send(client, picture(size=(1000, 1000))).status_code == 200
        answer = send(client, picture(size=(1001, 1000)))
        assert answer.status_code == 413
        assert "1001×1000" in sentence(answer)
        bomb = _png_header(60_000, 60_000)
        answer = send(client, bomb, "bomb.png")
        assert answer.status_code == 413
        assert "bomb.png" in sentence(answer)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that promises width × height and holds next to nothing."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_bytes_are_counted(start_server: StartServer) -> None:
    with start_server(limits=Limits(max_upload_bytes=100_000)) as server, server.client() as client:
        answer = send(client, bytes(200_000))
        assert answer.status_code == 413
        assert "100000" in sentence(answer)


def test_a_full_queue_says_so(start_server: StartServer) -> None:
    with start_server(limits=Limits(queue_requests=1)) as server, server.client() as client:
        content = picture(110, size=(1200, 900))
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: send(client, content, heatmap="false"), range(48)))
        codes = {answer.status_code for answer in answers}
        assert codes <= {200, 429}
        assert 200 in codes
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert "busy" in sentence(answer)
        recorded = client.get(RESULTS, params={"limit": 100}).json()["results"]
        assert len(recorded) == sum(answer.status_code == 200 for answer in answers)


def test_file_names_are_labels_and_nothing_more() -> None:
    assert clean_file_name("C:\\line 3\\part.png") == "part.png"
    assert clean_file_name("../../etc/passwd") == "passwd"
    assert clean_file_name("a\0b\n.png") == "a\ufffdb\ufffd.png"
    assert clean_file_name("") == clean_file_name("/") == "picture"
    assert len(clean_file_name("x" * 1000 + ".png")) == 255


# -- records ----------------------------------------------------------------------------------------------------------


def test_every_decision_is_on_record(start_server: StartServer) -> None:
    with start_server() as server:
        key = server.key("operator", "line-3")
        headers = {"X-Api-Key": key, "X-Request-Id": "shift-7.42"}
        content = picture(110)
        answer = httpx.post(server.url + INSPECT, files={"image": ("a.png", content)}, headers=headers, trust_env=False)
        package = server.running.state.models["washer"].package
    with Records.open(f"sqlite:///{server.home / 'records.db'}") as records:
        (found,) = records.results()
    assert found.id == answer.json()["id"]
    assert (found.solution, found.source, found.verdict) == ("inspection", "a.png", "NG")
    assert found.input_fingerprint == hashlib.sha256(content).hexdigest()
    assert (found.package, found.package_version, found.package_fingerprint) == ("washer", "1", package.fingerprint)
    assert (found.actor, found.request_id) == ("line-3", "shift-7.42")
    assert found.details["actor_id"] in key
    assert found.score == pytest.approx(answer.json()["score"])
    assert dict(found.thresholds) == THRESHOLDS
    assert found.latency_ms > 0


def test_a_decision_that_cannot_be_recorded_is_an_error(server: Server, client: httpx.Client) -> None:
    engine = sa.create_engine(f"sqlite:///{server.home / 'records.db'}")
    with engine.begin() as connection:
        connection.execute(
            sa.text("CREATE TRIGGER refuse BEFORE INSERT ON results BEGIN SELECT RAISE(ABORT, 'no'); END")
        )
    answer = send(client, picture(110))
    assert answer.status_code == 500
    assert "records" in sentence(answer)
    assert "verdict" not in answer.json()
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TRIGGER refuse"))
    engine.dispose()
    assert send(client, picture(110)).status_code == 200
    assert len(client.get(RESULTS).json()["results"]) == 1


def test_pages_and_filters(client: httpx.Client) -> None:
    sent = [send(client, picture((0, 60, 110)[i % 3]), f"{i}.png", heatmap="false").json() for i in range(7)]
    seen: list[dict[str, Any]] = []
    before: int | None = None
    while True:
        page = client.get(RESULTS, params={"limit": 3} | ({"before_id": before} if before else {})).json()
        seen += page["results"]
        before = page["next_before_id"]
        if before is None:
            break
    assert [result["file"] for result in seen] == [f"{i}.png" for i in reversed(range(7))]
    del sent[0]["heatmap"]
    assert seen[-1] == sent[0], "the record is the answer"
    assert client.get(f"{RESULTS}/{sent[0]['id']}").json() == sent[0]
    only = client.get(RESULTS, params={"verdict": "NG"}).json()["results"]
    assert [result["file"] for result in only] == ["5.png", "2.png"]
    assert client.get(RESULTS, params={"model": "bolt"}).json()["results"] == []
    assert client.get(RESULTS, params={"since": "2020-01-01T00:00:00Z"}).json()["results"]
    assert client.get(RESULTS, params={"until": "2020-01-01T00:00:00Z"}).json()["results"] == []


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 5000},
        {"limit": "x"},
        {"before_id": 0},
        {"verdict": "MAYBE"},
        {"since": "2026-01-01T00:00:00"},
        {"since": "0.0"},
        {"until": "2026-01-01"},
        {"until": "9999-12-31T23:59:59-09:00"},
        {"since": "0001-01-01T00:00:00+09:00"},
    ],
)
def test_queries_that_make_no_sense(client: httpx.Client, query: dict[str, Any]) -> None:
    answer = client.get(RESULTS, params=query)
    assert answer.status_code == 400
    assert next(iter(query)) in sentence(answer)


def test_another_solutions_results_are_not_ours(server: Server, client: httpx.Client) -> None:
    values: dict[str, Any] = dict.fromkeys(
        ("package", "package_version", "package_fingerprint", "input_fingerprint"), "x"
    )
    result = Result(solution="cctv", source="gate", score=1.0, thresholds={}, verdict="ALARM", latency_ms=1.0, **values)
    number = server.running.state.records.add_result(result)
    server.running.state.records.add_event(Event(solution="cctv", source="gate", kind="alarm"))
    assert client.get(RESULTS).json()["results"] == []
    for path in ("", "/picture", "/heatmap.png", "/thumbnail.jpg"):
        answer = client.get(f"{RESULTS}/{number}{path}")
        assert answer.status_code == 404
        assert f"result {number}" in sentence(answer)


# -- reviews ----------------------------------------------------------------------------------------------------------


def test_reviews_are_added_and_never_replace(client: httpx.Client) -> None:
    number = send(client, picture(110), heatmap="false").json()["id"]
    first = client.post(f"{RESULTS}/{number}/review", json={"verdict": "OK", "note": "그림자"})
    assert first.status_code == 201
    second = client.post(f"{RESULTS}/{number}/review", json={"verdict": "NG"}).json()
    assert (second["verdict"], second["reviewed"]) == ("NG", "NG")
    assert [(review["verdict"], review["who"], review["note"]) for review in second["reviews"]] == [
        ("OK", "operator-1", "그림자"),
        ("NG", "operator-1", ""),
    ]


@pytest.mark.parametrize("body", [{}, {"verdict": "REVIEW"}, {"verdict": "OK", "note": "x" * 2001}, [], "OK"])
def test_reviews_that_make_no_sense(client: httpx.Client, body: Any) -> None:
    number = send(client, picture(110), heatmap="false").json()["id"]
    assert client.post(f"{RESULTS}/{number}/review", json=body).status_code == 400
    assert client.post(f"{RESULTS}/999/review", json={"verdict": "OK"}).status_code == 404
    assert client.get(f"{RESULTS}/{number}").json()["reviews"] == []


# -- who may ----------------------------------------------------------------------------------------------------------


def test_roles(server: Server, client: httpx.Client) -> None:
    number = send(client, picture(110), heatmap="false").json()["id"]
    pictures = ("", "/picture", "/heatmap.png", "/thumbnail.jpg")
    reads = ["/api/inspection/models", RESULTS, *(f"{RESULTS}/{number}{end}" for end in pictures)]
    with server.client("viewer") as viewer, server.client(None) as stranger:
        for path in reads:
            assert viewer.get(path).status_code == 200
            assert stranger.get(path).status_code == 401
        for one, code in ((viewer, 403), (stranger, 401)):
            assert send(one, picture()).status_code == code
            assert one.post(f"{RESULTS}/{number}/review", json={"verdict": "OK"}).status_code == code
    assert len(client.get(RESULTS).json()["results"]) == 1


# -- pictures are kept within a bound ---------------------------------------------------------------------------------


def test_old_pictures_go_and_their_decisions_stay(start_server: StartServer, tmp_path: Path) -> None:
    store = PictureStore(tmp_path / "kept", max_bytes=600_000)
    routers = [lambda state: router_for(state, InspectionService(state, store))]
    with start_server(routers=routers) as server, server.client() as client:
        numbers = [send(client, picture(110), f"{i}.png", heatmap="false").json()["id"] for i in range(8)]
        size = sum(path.stat().st_size for path in (tmp_path / "kept").rglob("*") if path.is_file())
        assert 0 < size <= 600_000
        answer = client.get(f"{RESULTS}/{numbers[0]}/heatmap.png")
        assert answer.status_code == 404
        assert "not kept" in sentence(answer)
        assert client.get(f"{RESULTS}/{numbers[-1]}/heatmap.png").status_code == 200
        assert client.get(f"{RESULTS}/{numbers[0]}").json()["verdict"] == "NG"


def test_a_picture_that_cannot_be_kept_costs_no_decision(server: Server, client: httpx.Client) -> None:
    folder = server.home / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file where the folder should be")
    body = send(client, picture(110)).json()
    assert body["verdict"] == "NG"
    assert body["heatmap"]
    assert client.get(body["picture_url"]).status_code == 404
    assert client.get(f"{RESULTS}/{body['id']}").status_code == 200


def test_pictures_survive_a_restart(start_server: StartServer) -> None:
    with start_server() as server, server.client() as client:
        body = send(client, picture(110)).json()
    with start_server() as server, server.client() as client:
        assert client.get(f"{RESULTS}/{body['id']}").json()["verdict"] == "NG"
        shown = client.get(body["picture_url"]).content
        assert shown == picture(110)
        assert cv2.imdecode(np.frombuffer(client.get(body["heatmap_url"]).content, np.uint8), 1) is not None
