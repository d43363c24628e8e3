"""What a trained bot understands, through `Understander`."""

from __future__ import annotations

import itertools
import threading
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from shared.errors import BadInput
from shared.text import morphemes
from shared.text.retrieval import Retriever, kinds
from solutions.contact_center.config import OOS, Bot, load
from solutions.contact_center.training import from_bot, train
from solutions.contact_center.understanding import Understander, Understanding
from solutions.contact_center.understanding.model import FAQ
from solutions.contact_center.understanding.parts import splits

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=ZoneInfo("Asia/Seoul"))
TEMPLATES = Path(__file__).parents[3] / "solutions" / "contact_center" / "templates"


@pytest.fixture(scope="module")
def telecom(tmp_path_factory: pytest.TempPathFactory) -> Understander:
    bot = load(TEMPLATES / "telecom-ko")
    return Understander.load(train(from_bot(bot), tmp_path_factory.mktemp("package") / "telecom", bot=bot).path)


@pytest.fixture(scope="module")
def bot(telecom: Understander) -> Bot:
    assert telecom.bot is not None
    return telecom.bot


def wishes(bot: Bot) -> list[tuple[str, str]]:
    """Examples of all intents, with their names."""
    return [(one.text, name) for name, intent in bot.intents.items() if name != OOS for one in intent.examples]


def best(found: Understanding) -> str:
    return found.intents[0].name


def guessed(telecom: Understander, text: str) -> str:
    """What the model alone takes a message for: without the list of known sentences."""
    return max(zip(telecom.classifier.ask(text).probabilities, telecom.classifier.labels, strict=True))[1]


def test_the_model_learns_its_own_examples(telecom: Understander, bot: Bot) -> None:
    right = [guessed(telecom, text) == name for text, name in wishes(bot)]
    assert sum(right) / len(right) > 0.97


def test_its_own_sentences_are_certain_however_they_are_spaced(telecom: Understander, bot: Bot) -> None:
    said = [(text, name) for text, name in wishes(bot)] + [
        (text, FAQ + name) for name, faq in bot.faqs.items() for text in faq.questions
    ]
    written: dict[str, set[str]] = {}
    for text, name in said:
        written.setdefault("".join(filter(str.isalnum, text)), set()).add(name)
    once = [(text, name) for text, name in said if len(written["".join(filter(str.isalnum, text))]) == 1]
    assert len(once) > 200
    for text, name in once:
        found = telecom.understand(text.replace(" ", "").rstrip("?.") + "!", NOW)
        scores = {score.name: score.confidence for score in found.intents}
        scores |= {FAQ + hit.name: hit.confidence for hit in found.faqs}
        assert scores[name] == max(scores.values()) >= telecom.thresholds.answer, (text, name)
        assert found.scope >= telecom.thresholds.scope, text


def test_spaces_half_width_and_case_change_little(telecom: Understander, bot: Bot) -> None:
    pairs = wishes(bot)[::8]
    for change in (lambda text: text.replace(" ", ""), lambda text: text.upper()):
        right = [guessed(telecom, change(text)) == name for text, name in pairs]
        assert sum(right) / len(right) > 0.9


def test_confidences_are_probabilities_and_nonsense_is_out_of_scope(telecom: Understander, bot: Bot) -> None:
    known = telecom.understand(next(iter(bot.intents.values())).examples[0].text, NOW)
    assert known.scope > telecom.thresholds.scope
    assert 0 < sum(score.confidence for score in known.intents) <= 1.0001
    assert list(known.intents) == sorted(known.intents, key=lambda score: -score.confidence)
    for text in ("qwzx vbnm plok", "양자역학에서 파동함수의 붕괴란 무엇인가", "1234 5678"):
        found = telecom.understand(text, NOW)
        assert found.scope < known.scope
        assert found.scope_score < known.scope_score


@pytest.mark.parametrize("text", ["", " ", "\x00\x01\ud800", "아" * 10_000, "😀" * 50, "\u200b"])
def test_strange_input_is_understood_as_something(telecom: Understander, text: str) -> None:
    found = telecom.understand(text, NOW)
    assert 0 <= found.scope <= 1
    assert found.intents


def test_a_stored_question_is_found_word_for_word(telecom: Understander, bot: Bot) -> None:
    for name, faq in list(bot.faqs.items())[:10]:
        hit = telecom.understand(faq.questions[0], NOW).faqs[0]
        assert hit.name == name
        assert hit.similarity == 1.0
        assert hit.question == faq.questions[0]


def test_two_wishes_in_one_message_are_two_parts(telecom: Understander, bot: Bot) -> None:
    names = [name for name, intent in bot.intents.items() if name != OOS and len(intent.examples) > 5][:6]
    texts = {name: max((one.text for one in bot.intents[name].examples), key=len).rstrip(".?!") for name in names}
    found = 0
    for first, second in itertools.pairwise(names):
        parts = telecom.understand(f"{texts[first]}. 그리고 {texts[second]}", NOW).parts
        found += [best(part) for part in parts] == [first, second]
    assert found >= 3
    assert all(not telecom.understand(text, NOW).parts for text in texts.values())


def test_places_where_a_message_may_be_two() -> None:
    assert ("cancel my order", "tell me my balance") in splits("cancel my order and also tell me my balance")
    assert ("요금제 바꾸고", "로밍도 신청해 주세요") in splits("요금제 바꾸고 로밍도 신청해 주세요")
    assert list(splits("네, 맞아요")) == []
    assert list(splits("where is my parcel")) == []


def test_threads_share_one_understander(telecom: Understander, bot: Bot) -> None:
    texts = [intent.examples[0].text for intent in bot.intents.values() if intent.examples][:12]
    alone = [telecom.understand(text, NOW) for text in texts]
    found: dict[int, list[Understanding]] = {}

    def run(number: int) -> None:
        found[number] = [telecom.understand(text, NOW) for text in texts]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == alone for number in range(4))


def test_another_package_is_refused(tmp_path: Path) -> None:
    from tests.shared.packages import make_package

    with pytest.raises(BadInput, match="not a bot's"):
        Understander.load(make_package(tmp_path / "other"))


@pytest.mark.skipif(not morphemes.available(), reason="Kiwi is not installed (extra `korean`)")
def test_paraphrases_are_nearer_than_other_questions_with_the_same_words() -> None:
    stored = ["로밍 요금은 얼마인가요", "로밍은 어떻게 신청하나요", "와이파이 비밀번호가 뭐예요"]
    retriever = Retriever(stored, kinds(korean=True))
    for text, row in (("로밍하면 돈이 얼마나 들어요 요금이요", 0), ("로밍신청하는법", 1), ("와이파이 비번 알려줘", 2)):
        assert int(retriever.similarities(text).argmax()) == row
    assert retriever.similarities(stored[0])[0] == pytest.approx(1.0, abs=1e-5)
    assert retriever.similarities("")[0] == 0.0
