"""SITE.yaml: what is accepted, and how mistakes are told."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from shared.errors import BadInput
from solutions.cctv import config
from solutions.cctv.config import Intrusion, in_schedule
from solutions.cctv.evaluation import Truth
from solutions.cctv.judging import CAMERA, site_of

SITE = """
cameras:
  gate:
    source: rtsp://${GATE_USER}:${GATE_PASSWORD}@10.0.0.5/stream2
    zones: {yard: [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]}
    lines: {door: [[0.1, 0.2], [0.1, 0.9]]}
    rules:
      - {type: intrusion, zones: [yard], schedule: [{days: [mon, fri], from: "22:00", to: "06:00"}]}
      - {type: line_crossing, lines: [door]}
      - {type: ppe_missing, required: [helmet]}
"""


def load(tmp_path: Path, text: str) -> config.Site:
    (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
    return config.load(tmp_path / "site.yaml")


def test_a_site_is_read_with_defaults(tmp_path: Path) -> None:
    camera = load(tmp_path, SITE).cameras["gate"]
    assert [rule.type for rule in camera.rules] == ["intrusion", "line_crossing", "ppe_missing"]
    assert camera.rules[0].hold_s == 2.0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("zones: [yard]", "zones: [yrad]", "did you mean yard?"),
        ("lines: [door]", "lines: [gate]", "not among the lines"),
        ("intrusion", "intrusoin", "intrusion"),
        ("[0.1, 0.9]", "[0.1, 1.9]", "less than or equal to 1"),
        ("source:", "soruce:", "source"),
        ('"22:00"', '"25:00"', "from"),
        ("line_crossing, lines: [door]", "vehicle_near_person", "four points"),
        ("required: [helmet]", "required: []", "required"),
    ],
)
def test_a_mistake_is_told_with_file_and_field(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(BadInput, match=r"site\.yaml") as caught:
        load(tmp_path, SITE.replace(old, new))
    assert told in str(caught.value)


def test_a_schedule_over_midnight_belongs_to_the_evening() -> None:
    schedule: Any = [{"days": ["fri"], "from": "22:00", "to": "06:00"}]
    rule = Intrusion.model_validate({"type": "intrusion", "zones": ["yard"], "schedule": schedule})
    friday = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    holds = {hour: in_schedule(rule, friday + dt.timedelta(hours=hour)) for hour in (5, 21.99, 22, 29.99, 30, 46)}
    assert holds == {5: False, 21.99: False, 22: True, 29.99: True, 30: False, 46: False}


def truth(**raw: Any) -> Truth:
    return Truth("yard.mp4", 10.0, tuple(raw.pop("types")), (), {"size": [200, 100]} | raw)


def test_a_truth_file_becomes_a_site() -> None:
    told = truth(
        types=["intrusion", "line_crossing", "crowding", "ppe_missing", "removed_object", "fire", "camera_covered"],
        zones={"bay": [[0, 0], [100, 0], [250, 100]]},
        lines={"door": [[20, 0], [20, 100]]},
        params={"crowding_min_persons": 3, "ppe_required": ["vest"], "removed_min_s": 4, "unknown_thing": 1},
    )
    camera = site_of(told, Path("yard.mp4"), (200, 100)).cameras[CAMERA]
    rules: dict[str, Any] = {rule.type: rule for rule in camera.rules}
    assert set(rules) == {*told.types[:-1], "camera_health"}
    assert camera.zones["bay"] == [(0, 0), (0.5, 0), (1, 1)]
    assert (rules["crowding"].min_persons, rules["ppe_missing"].required, rules["removed_object"].min_s) == (
        3,
        ("vest",),
        4,
    )
    assert rules["intrusion"].zones == ("bay",)
    assert rules["fire"].zones == ()


def test_types_without_their_zones_or_lines_are_left_out() -> None:
    assert site_of(truth(types=["intrusion", "line_crossing"]), Path("a"), (200, 100)).cameras[CAMERA].rules == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"zones": {"bay": [[0, 0], [1]]}},
        {"zones": [1]},
        {"zones": {"bay": [[0, 0]]}},
        {"params": {"crowding_min_persons": -1}},
    ],
)
def test_what_a_truth_file_says_wrongly_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        site_of(truth(types=["crowding"], **wrong), Path("a"), (200, 100))
