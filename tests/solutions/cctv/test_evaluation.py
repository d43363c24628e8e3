"""Events against truth: `haechi cctv evaluate`, and what it is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadInput
from solutions.cctv import evaluation
from solutions.cctv.evaluation import Happening, Truth, judge
from solutions.cli import main

CROSSING = Happening("line_crossing", 10.0, line="door", direction="left")


def truth(*events: Happening, types: tuple[str, ...] = ("intrusion", "line_crossing"), seconds: float = 1800) -> Truth:
    return Truth("yard.mp4", seconds, types, events)


def tallies(*said: Happening, of: Truth, **options: float) -> dict[str, Any]:
    result = judge([of], {"yard.mp4": said}, **options).as_dict()
    return result["types"]


@pytest.mark.parametrize(("start_s", "right"), [(7.9, False), (8.0, True), (10.0, True), (20.0, True), (20.1, False)])
def test_an_event_may_be_two_seconds_early_and_ten_late(start_s: float, right: bool) -> None:
    of_type = tallies(Happening("intrusion", start_s), of=truth(Happening("intrusion", 10.0)))["intrusion"]
    assert (of_type["tp"], of_type["fp"], of_type["fn"]) == ((1, 0, 0) if right else (0, 1, 1))


def test_line_and_direction_must_be_right() -> None:
    wrong = Happening("line_crossing", 10.0, line="door", direction="right")
    elsewhere = Happening("line_crossing", 10.0, line="gate", direction="left")
    found = tallies(CROSSING, wrong, elsewhere, of=truth(CROSSING))["line_crossing"]
    assert (found["tp"], found["fp"], found["fn"]) == (1, 2, 0)
    assert found["false_alarms_per_hour"] == 4.0
    assert found["precision"] == pytest.approx(1 / 3, abs=1e-4)


def test_an_announcement_counts_once_and_the_most_are_matched() -> None:
    # Nearest first would give the announcement at 11 s to the event at 10 s and leave the one at 12 s without.
    of = truth(Happening("intrusion", 10.0), Happening("intrusion", 12.0))
    found = tallies(Happening("intrusion", 9.0), Happening("intrusion", 11.0), of=of)["intrusion"]
    assert (found["tp"], found["fp"], found["fn"]) == (2, 0, 0)
    again = tallies(*[Happening("intrusion", 10.0)] * 3, of=of)["intrusion"]
    assert (again["tp"], again["fp"], again["fn"]) == (2, 1, 0)


def test_optional_events_excuse_and_are_not_missed() -> None:
    of = truth(Happening("intrusion", 10.0, optional=True))
    for said in ([], [Happening("intrusion", 11.0)]):
        found = tallies(*said, of=of)["intrusion"]
        assert (found["tp"], found["fp"], found["fn"], found["f1"]) == (0, 0, 0, None)
    assert tallies(*[Happening("intrusion", 11.0)] * 2, of=of)["intrusion"]["fp"] == 1


def test_types_that_nobody_annotated_are_not_judged() -> None:
    assert set(tallies(Happening("fire", 1.0), of=truth())) == {"intrusion", "line_crossing"}


def test_the_tolerance_can_be_set() -> None:
    said = Happening("line_crossing", 10.8, line="door", direction="left")
    assert tallies(said, of=truth(CROSSING), late_s=0.7)["line_crossing"]["fn"] == 1


@given(
    st.lists(st.floats(0, 100), max_size=12),
    st.lists(st.floats(0, 100), max_size=12),
)
def test_every_event_is_found_or_missed_and_every_announcement_right_or_false(
    true: list[float], said: list[float]
) -> None:
    of = truth(*[Happening("intrusion", start) for start in true])
    result = judge([of], {"yard.mp4": [Happening("intrusion", start) for start in said]})
    tally = result.types["intrusion"]
    assert tally.found + tally.missed == len(true)
    assert tally.found + tally.false == len(said)
    assert len(result.mismatches) == tally.missed + tally.false
    if true == said:
        assert tally.false == 0


def write_truth(path: Path, **more: Any) -> Path:
    raw = {"clip": "cams/yard.mp4", "duration_s": 3600, "size": [640, 360], "annotated_types": ["intrusion"]} | more
    path.write_text(json.dumps(raw))
    return path


def test_evaluate_reads_files_and_writes_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    true = write_truth(tmp_path / "yard.json", events=[{"type": "intrusion", "start_s": 5, "zone": "bay"}])
    lines = [{"type": "intrusion", "start_s": start, "zone": "bay", "clip": "yard"} for start in (6.5, 200)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    report = tmp_path / "report.json"
    assert main(["cctv", "evaluate", str(true), str(tmp_path / "events.jsonl"), "--json", str(report)]) == 0
    said = json.loads(report.read_text())
    assert (said["tp"], said["fp"], said["fn"]) == (1, 1, 0)
    assert said["types"]["intrusion"]["false_alarms_per_hour"] == 1.0
    assert said["types"]["intrusion"]["mean_delay_s"] == 1.5
    assert said["types"]["intrusion"]["pass"] is False
    assert "false" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "yard.json is not JSON"),
        ("[]", "yard.json must hold a JSON object"),
        ('{"events": [{"start_s": 1}]}', "yard.json: events[0]: an event needs a type"),
        ('{"events": [{"type": "fall", "start_s": "soon"}]}', "start_s and end_s must be seconds"),
        ('{"size": [0, 10]}', "size must be width and height"),
        ('{"duration_s": {}}', "yard.json is not a truth file"),
    ],
)
def test_what_is_no_truth_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, named: str
) -> None:
    (tmp_path / "yard.json").write_text(content)
    (tmp_path / "events.jsonl").touch()
    assert main(["cctv", "evaluate", str(tmp_path / "yard.json"), str(tmp_path / "events.jsonl")]) == 2
    assert named in capsys.readouterr().err


def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"type": "fall", "start_s": 1}\n{"type": "fall", "start_s": null}\n')
    with pytest.raises(BadInput, match=r"events\.jsonl:2"):
        evaluation.read_events(tmp_path / "events.jsonl")
