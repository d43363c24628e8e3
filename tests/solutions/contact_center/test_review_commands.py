"""`haechi bot review`, `compare`, `analytics` and `bandit` on a real, small bot and its stored conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared import settings
from shared.records import Records
from shared.registry import Registry
from shared.streams import Streams
from solutions.contact_center.bandit import FEATURES, LinUcb, Policy, path_of
from solutions.contact_center.commands import app
from solutions.contact_center.config import Bot, Model, load
from solutions.contact_center.dialogue.events import RUNGS
from solutions.contact_center.training import from_bot, train
from tests.solutions.contact_center.served import write_bot
from tests.solutions.contact_center.talking import Talk

UNKNOWN = ("쿠폰 적용이 안 돼요", "쿠폰이 적용이 안 돼요", "쿠폰 적용 안 되는데요")
HELD_OUT = {
    "book": [
        "예약 하나 부탁할게요",
        "내일 진료 예약돼요?",
        "can I make an appointment",
        "진료예약좀요",
        "book me a visit",
    ],
    "order": ["물건 하나 주문할게요", "주문 좀 넣을게요", "이거 주문이요", "I would like to order", "주문하려고요"],
    "contact": ["전화번호 바꾸려고요", "연락처 변경이요", "my number changed", "번호 변경할게요", "연락처 바뀌었어요"],
    "parking": ["주차장 있나요", "주차 돼요?", "is there a car park", "차 어디에 대나요", "주차되나요 거기"],
    "oos": ["오늘 날씨 어때", "노래 틀어 줘", "who won the match", "배고파", "비트코인 살까", "tell me a joke"],
    "price": ["진료비 얼마예요?", "how much does it cost", "비용이 얼마예요", "진료비 알려 주세요", "가격이 얼마죠"],
}


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture
def told(clinic: Bot) -> Bot:
    """Three times the same wish that the bot does not know, and one order."""
    with Records.open() as records:
        for number, text in enumerate(UNKNOWN):
            Talk(clinic, records, id=f"clinic/{number}").say(text, ("parking", 0.2))
        talk = Talk(clinic, records, id="clinic/order")
        for text in ("주문할게요", "작은 거", "네"):
            talk.say(text, "order")
    return clinic


def test_review_from_the_list_to_the_folder(told: Bot, tmp_path: Path) -> None:
    folder = write_bot(tmp_path / "bot")
    out = tmp_path / "out.json"
    listed = run("review", folder, "--json", out)
    (group,) = json.loads(out.read_text(encoding="utf-8"))
    assert set(group["texts"]) == set(UNKNOWN)
    assert "쿠폰" in listed
    run("review", folder, "label", "--group", "1", "--as", "coupon")
    assert "Nothing to look at" in run("review", folder)
    assert "coupon" in run("review", folder, "export")
    assert {one.text for one in load(folder).intents["coupon"].examples} == set(UNKNOWN)
    run("review", folder, "label", "--text", "뭐 먹지", "--as", "oos")
    run("review", folder, "export")
    assert [one.text for one in load(folder).intents["oos"].examples] == ["뭐 먹지"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["label", "--as", "order"], "either --group N or --text"),
        (["label", "--group", "9", "--as", "order"], "the list has 0"),
        (["label", "--text", "a", "--as", "No!"], "cannot name an intent"),
        (["sing"], "list, label or export"),
    ],
)
def test_review_says_what_is_wrong(clinic: Bot, arguments: list[str], words: str) -> None:
    assert clinic.folder is not None
    result = CliRunner().invoke(app, ["review", str(clinic.folder), *arguments])
    assert result.exit_code != 0
    assert words in f"{result.output} {result.exception}"


def test_analytics(told: Bot, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert told.folder is not None
    # the conversations of these tests are of March 2026
    shown = run("analytics", told.folder, "--days", "3650", "--json", out)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert found["conversations"] == 4
    assert "4 conversations" in shown
    assert "쿠폰" in shown


def test_the_bandit_is_judged_and_stopped(told: Bot, tmp_path: Path) -> None:
    assert told.folder is not None
    out = tmp_path / "out.json"
    assert "may not go live" in run("bandit", told.folder, "--json", out)
    assert json.loads(out.read_text(encoding="utf-8"))["approved"] is False
    refused = CliRunner().invoke(app, ["bandit", str(told.folder), "approve"])
    assert refused.exit_code != 0
    path = path_of("clinic", settings.load().home)
    assert not path.exists()
    Policy(0.05, LinUcb(RUNGS, len(FEATURES))).save(path)
    run("bandit", told.folder, "stop")
    assert Policy.load(path).rungs is None


@pytest.mark.slow
def test_a_challenger_is_compared_and_promoted(clinic_package: Path, told: Bot, tmp_path: Path) -> None:
    held = tmp_path / "held.csv"
    rows = [f'"{text}",{intent}' for intent, texts in HELD_OUT.items() for text in texts]
    coupons = ["쿠폰이 안 먹혀요", "쿠폰 적용 어떻게 해요", "쿠폰이 왜 적용이 안 되나요", "쿠폰 적용이 안 됩니다"]
    held.write_text("\n".join(["text,intent", *rows, *(f"{text},coupon" for text in coupons)]), encoding="utf-8")
    folder = write_bot(tmp_path / "bot")
    run("review", folder, "label", "--group", "1", "--as", "coupon")
    run("review", folder, "export")
    bot = load(folder)
    challenger = train(from_bot(bot), tmp_path / "challenger", bot=bot, model=Model(recipe="light")).path
    registry = Registry()
    registry.add(clinic_package, alias="champion")
    registry.add(challenger, alias="challenger")
    out = tmp_path / "out.json"
    arguments = ["clinic@champion", "clinic@challenger", "--data", held, "--margin", "1.0", "--promote", "--json", out]
    shown = run("compare", *arguments)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["only_challenger"] >= 1, shown
    assert found["promoted"] == "clinic@2"
    assert Registry().aliases("clinic") == {"champion": 2}
    # the other way round there is nothing to gain: the old one knows no coupons
    back = CliRunner().invoke(
        app, ["compare", "clinic@2", "clinic@1", "--data", str(held), "--margin", "0", "--promote"]
    )
    assert back.exit_code == 1, back.output
    assert "refused" in back.output
    assert Registry().aliases("clinic") == {"champion": 2}
    with Records.open() as records:
        assert Streams(records).read("contact_center.review", "clinic"), "the labels stay"
