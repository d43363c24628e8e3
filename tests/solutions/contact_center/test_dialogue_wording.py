"""What is said: slots filled in, particles, variants; and what is sealed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shared.errors import HaechiError
from solutions.contact_center.config import Bot
from solutions.contact_center.dialogue import patterns
from solutions.contact_center.dialogue.ladder import Choice, Limits, Option, decide
from solutions.contact_center.dialogue.sealing import Vault, veil
from solutions.contact_center.dialogue.wording import Wording, by_hash, fill
from tests.solutions.contact_center.talking import FaqHit, IntentScore, Understanding


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{plan}을(를) 쓰세요", {"plan": "요금제"}, "요금제를 쓰세요"),
        ("{plan}을(를) 쓰세요", {"plan": "5G 스탠다드 플랜"}, "5G 스탠다드 플랜을 쓰세요"),
        ("{n}(으)로 {a}와(과) {b}이(가)", {"n": "서울", "a": "빵", "b": "3"}, "서울로 빵과 3이"),
        ("{a}은(는)", {"a": "을(를)"}, "을(를)은"),
        ("{missing}님", {}, "님"),
        ("{a}", {"a": "{b}", "b": "secret"}, "{b}"),
        ("{0} {a.b} {a!r} { a } {}", {"a": "x"}, "{0} {a.b} {a!r} { a } {}"),
    ],
)
def test_filling_in(template: str, values: dict[str, str], text: str) -> None:
    assert fill(template, values, "ko") == text


def test_english_is_left_alone() -> None:
    assert fill("{a}을(를)", {"a": "x"}, "en") == "x을(를)"


def test_variants_spread_and_are_the_same_everywhere() -> None:
    chosen = [by_hash("c1", turn)("booked", 3) for turn in range(300)]
    assert chosen == [by_hash("c1", turn)("booked", 3) for turn in range(300)]
    assert all(70 < chosen.count(variant) < 130 for variant in range(3))


def test_the_folder_goes_before_the_patterns(clinic: Bot) -> None:
    wording = Wording(clinic)
    assert wording.variants("welcome", "ko", "web") == ["어서 오세요."]
    assert wording.variants("cancelled", "ko", "web") == patterns.load("ko").responses["cancelled"]
    assert wording.has("resume")
    assert not wording.has("nonsense")
    assert wording.say("nonsense", "ko", "web", {}, lambda *_: 0).text == ""


def test_both_languages_know_the_same_patterns() -> None:
    korean, english = patterns.load("ko"), patterns.load("en")
    assert korean.examples.keys() == english.examples.keys()
    assert korean.responses.keys() == english.responses.keys()
    assert korean.titles.keys() == english.titles.keys()
    for language in (korean, english):
        texts = [patterns.squeezed(text) for examples in language.examples.values() for text in examples]
        assert len(texts) == len(set(texts)), "an example belongs to one intent"
    assert patterns.exactly(" 네~!", "ko") == "affirm"
    assert patterns.exactly("Never mind.", "en") == "cancel"
    assert patterns.exactly("요금제", "ko") is None


def understood(*intents: tuple[str, float], faq: tuple[str, float] | None = None, scope: float = 0.9) -> Understanding:
    scores = tuple(IntentScore(*one) for one in intents)
    hits = (FaqHit(faq[0], faq[1], faq[1], ""),) if faq else ()
    return Understanding("", scores, scope, scope, hits, (), ())


@pytest.mark.parametrize(
    ("given", "asked", "rung", "reason"),
    [
        (understood(("book", 0.8)), 0, "answer", "confident"),
        (understood(("book", 0.3), faq=("parking", 0.8)), 0, "answer", "confident"),
        (understood(("book", 0.5)), 0, "confirm", "unsure"),
        (understood(("book", 0.35), ("order", 0.3)), 0, "choose", "two_alike"),
        (understood(("book", 0.2)), 0, "ask_again", "unclear"),
        (understood(), 0, "ask_again", "unclear"),
        (understood(("oos", 0.9)), 0, "ask_again", "unclear"),
        (understood(("book", 0.99), scope=0.2), 0, "ask_again", "out_of_scope"),
        (understood(faq=("parking", 0.97), scope=0.2), 0, "answer", "confident"),
        (understood(("book", 0.5)), 2, "hand_over", "too_often"),
        (understood(("book", 0.8)), 2, "answer", "confident"),
    ],
)
def test_the_ladder(clinic: Bot, given: Understanding, asked: int, rung: str, reason: str) -> None:
    decision = decide(given, clinic, Limits(0.7, 0.4, 0.5), asked)
    assert (decision.rung, decision.reason) == (rung, reason)


def test_a_policy_is_asked_and_bounded(clinic: Bot) -> None:
    class Reckless:
        seen: tuple[str, ...] = ()

        def choose_rung(self, context: Mapping[str, float], allowed: Sequence[str], default: str) -> Choice:
            self.seen = tuple(allowed)
            return Choice("answer", 0.5, "feeling lucky")

        def choose_variant(self, response: str, count: int, context: Mapping[str, float]) -> Choice | None:
            return None

    policy = Reckless()
    limits = Limits(0.7, 0.4, 0.5)
    bold = decide(understood(("book", 0.5)), clinic, limits, 0, policy)
    assert (bold.rung, bold.default) == ("answer", "confirm")
    assert bold.as_dict()["why"] == "feeling lucky"
    assert bold.options[0] == Option("intent", "book", 0.5)
    held = decide(understood(("book", 0.2)), clinic, limits, 0, policy)
    assert held.rung == "ask_again"
    assert "answer" not in policy.seen
    outside = decide(understood(("book", 0.9), scope=0.1), clinic, limits, 0, policy)
    assert outside.rung == "ask_again"


def test_sealed_values_open_here_and_nowhere_else(haechi_home: Path, tmp_path: Path) -> None:
    vault = Vault.of_home()
    sealed = vault.seal({"phone": "010-1234-5678"}, "c1")
    assert "1234" not in sealed
    assert Vault.of_home().open(sealed, "c1") == {"phone": "010-1234-5678"}
    assert vault.seal("x", "c1") != vault.seal("x", "c1")
    for attempt in (lambda: vault.open(sealed, "c2"), lambda: Vault.of_home(tmp_path / "other").open(sealed, "c1")):
        with pytest.raises(HaechiError):
            attempt()
    for damaged in (sealed[:-4] + "AAA=", "2:" + sealed[2:], "1:", "", "1:é"):
        with pytest.raises(HaechiError):
            vault.open(damaged, "c1")
    key = haechi_home / "keys" / "conversations.key"
    assert key.stat().st_mode & 0o777 == 0o600
    os.chmod(key, 0o644)
    with pytest.raises(HaechiError, match="chmod 600"):
        Vault.of_home()
    os.chmod(key, 0o600)
    key.write_bytes(b"short")
    with pytest.raises(HaechiError, match="5 bytes"):
        Vault.of_home()


@pytest.mark.parametrize(
    ("given", "shown"), [("김철수", "김**"), ("12 Mill Lane", "1* **** ****"), ("x", "*"), ("", "")]
)
def test_a_veil(given: str, shown: str) -> None:
    assert veil(given) == shown
