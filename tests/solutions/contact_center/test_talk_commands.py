"""`haechi bot chat`, `test`, `replay`, `forget`, `purge`, as a user calls them."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared.records import Records
from solutions.contact_center import talk_commands
from solutions.contact_center.config import Bot, load
from solutions.contact_center.dialogue.rehearsal import rehearse
from solutions.contact_center.pipeline import BotPipeline
from tests.solutions.contact_center.talking import Talk, Told, make_bot

runner = CliRunner()

TESTS = """
- test: a whole booking
  language: en
  steps:
    - {user: Dr Kim, expect: {rung: confirm, flow: false, intent: book}}
    - {user: "yes", expect: {flow: book, says: ask_when, slot: {doctor: 김 선생님}, text: [When], not_text: [Booked]}}
    - {user: tomorrow at 3 pm, expect: {slot: {datetime: "2026-03-03T15:00:00+09:00"}, ended: false}}
    - {user: John Smith}
    - {wait_minutes: 5}
    - {user: skip, expect: {says: confirm_book, text: "/J\\\\*+/"}}
    - {user: cancel, expect: {ended: true, flow: false, hand_over: false}}
    - {user: agent, expect: {hand_over: asked, rung: hand_over}}
"""
WRONG = """
- test: everything is wrong
  language: en
  steps:
    - {user: Dr Kim, expect: {rung: answer, flow: order, says: booked, text: "/never/", not_text: [booking]}}
    - {user: "yes", expect: {slot: {doctor: 이 선생님}, ended: true, hand_over: true}}
"""


class Unsure(Told):
    """Takes everything for a booking, with half a heart."""

    def __init__(self, bot: Bot) -> None:
        super().__init__(bot)
        self.next = (("book", 0.5),)


def test_a_rehearsal_says_what_held_and_what_was_covered(tmp_path: Path) -> None:
    bot = make_bot(tmp_path, tests__all=TESTS)
    result = rehearse(bot, Unsure(bot))
    assert [outcome.failures for outcome in result.outcomes] == [()]
    assert result.passed
    coverage = result.coverage()
    assert coverage["flows"] == {"covered": 1, "total": 3}
    assert coverage["missing_flows"] == ["contact", "order"]
    assert "book:6" in coverage["missing_steps"]
    assert "book:5" not in coverage["missing_steps"]


def test_a_rehearsal_names_every_expectation_that_did_not_hold(tmp_path: Path) -> None:
    bot = make_bot(tmp_path, tests__all=WRONG)
    outcome = rehearse(bot, Unsure(bot)).outcomes[0]
    assert [(failure.step, failure.field) for failure in outcome.failures] == [
        (1, "flow"),
        (1, "says"),
        (1, "rung"),
        (1, "text"),
        (1, "not_text"),
        (2, "ended"),
        (2, "hand_over"),
        (2, "slot.doctor"),
    ]
    assert outcome.failures[2].expected == "answer"
    assert outcome.failures[2].got == "confirm"
    assert outcome.transcript[0] == ("user", "Dr Kim")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bot's folder with tests, and the package made from it."""
    from solutions.contact_center.config import Model
    from solutions.contact_center.training import from_bot, train

    folder = tmp_path_factory.mktemp("clinic") / "clinic"
    bot = make_bot(folder, tests__all=REAL)
    package = folder.parent / "clinic.package"
    train(from_bot(bot), package, bot=bot, model=Model(recipe="light"))
    return folder, package


REAL = """
- test: greeting and goodbye
  language: en
  steps:
    - {user: hello, expect: {says: intent_greet}}
    - {user: goodbye, expect: {says: intent_goodbye}}
"""


def app_run(*arguments: str, text: str = "") -> tuple[int, str]:
    from solutions.contact_center.commands import app

    result = runner.invoke(app, list(arguments), input=text)
    return result.exit_code, result.output


def test_test_passes_prints_coverage_and_writes_json(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, package = trained
    written = tmp_path / "out.json"
    code, output = app_run("test", str(folder), "--package", str(package), "--json", str(written))
    assert code == 0, output
    assert "1 of 1 conversations as expected; flows 0 of 3" in output
    assert json.loads(written.read_text())["passed"] is True


def test_a_failed_test_is_shown_with_its_transcript_and_fails(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, package = trained
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    (wrong / "tests" / "all.yaml").write_text(REAL.replace("says: intent_greet", "says: booked"), encoding="utf-8")
    code, output = app_run("test", str(wrong), "--package", str(package))
    assert code == 1
    assert "FAILED  greeting and goodbye" in output
    assert "says: expected booked, got ['intent_greet']" in output
    assert "> hello" in output


def test_a_folder_is_trained_once_and_kept(trained: tuple[Path, Path]) -> None:
    from shared import settings

    folder, _ = trained
    for _ in range(2):
        code, output = app_run("test", str(folder))
        assert code == 0, output
        kept = list((settings.load().cache / "bots").iterdir())
        assert len(kept) == 1
        stamp = kept[0].stat().st_mtime_ns
    assert kept[0].stat().st_mtime_ns == stamp
    assert kept[0].name == f"clinic-{load(folder).fingerprint[:16]}"


def test_chat_answers_line_by_line(trained: tuple[Path, Path]) -> None:
    _, package = trained
    code, output = app_run("chat", str(package), "--lang", "en", "--conversation", "t1", text="hello\n\ngoodbye\n")
    assert code == 0
    assert "Hello!" in output or "Hi there." in output
    assert "That message was empty." in output
    with Records.open() as records:
        state = BotPipeline.open(package, records).state("t1")
    assert state.turn == 4, "the greeting and three messages"
    code, again = app_run("chat", str(package), "--conversation", "t1", text="")
    assert code == 0
    assert "Hello!" not in again


def test_a_bot_without_tests_is_told_so(tmp_path: Path) -> None:
    from shared.errors import BadInput

    make_bot(tmp_path)
    with pytest.raises(BadInput, match="no conversation tests"):
        talk_commands.rehearse(tmp_path, None, None)


def test_replay_prints_events_and_state(clinic: Bot, records: Records, tmp_path: Path) -> None:
    talk = Talk(clinic, records)
    talk.say("예약할게요", "book")
    written = tmp_path / "replay.json"
    code, output = app_run("replay", "c1", "--json", str(written))
    assert code == 0
    assert "flow_started" in output
    assert json.loads(written.read_text())["state"] == json.loads(talk.state.to_bytes())
    assert app_run("replay", "nobody")[0] != 0


def test_forget_and_purge(clinic: Bot, records: Records) -> None:
    Talk(clinic, records).say("주차요", "parking", customer="kim")
    assert "0 conversations deleted" in app_run("forget", "lee")[1]
    assert "1 conversation deleted" in app_run("forget", "kim")[1]
    old = Talk(clinic, records, id="old")
    old.time = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    old.say("주차요", "parking")
    assert app_run("purge")[0] != 0
    assert "1 conversation older than 1 days deleted" in app_run("purge", "--days", "1")[1]
    assert clinic.folder is not None
    assert "older than 90 days" in app_run("purge", str(clinic.folder))[1]
    assert len(records.audit_entries(action="streams.forget")) == 2
