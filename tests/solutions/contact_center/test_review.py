"""What people should look at, how it is grouped and labelled, the export, and champion against challenger."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from shared.errors import BadInput
from shared.records import Records
from shared.streams import Streams
from solutions.contact_center.compare import (
    HeldOut,
    compare,
    mcnemar,
    paired_bootstrap,
    read_held_out,
)
from solutions.contact_center.config import Bot, load
from solutions.contact_center.dialogue.events import Event, iso
from solutions.contact_center.dialogue.ladder import Limits
from solutions.contact_center.grouping import group
from solutions.contact_center.history import turns_of
from solutions.contact_center.review import DISLIKED, REGRETTED, UNSURE, Review, candidates
from solutions.contact_center.understanding import IntentScore, Understanding
from tests.solutions.contact_center.talking import MONDAY, Talk, make_bot

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "contact_center"


@pytest.fixture
def review(clinic: Bot, records: Records) -> Review:
    return Review(Streams(records), clinic)


def reasons(talk: Talk) -> list[tuple[str, str, str]]:
    """Text, reason and suggestion of what is to be looked at."""
    turns = turns_of(talk.pipeline.conversations.events(talk.id), talk.id)
    return [(one.text, one.reason, one.suggestion) for one in candidates(turns)]


# -- which utterances -------------------------------------------------------------------------------------------------


def test_what_the_bot_was_unsure_of(talk: Talk) -> None:
    talk.say("차 가져가도 되나", ("parking", 0.5))
    talk.say("네")
    talk.say("오늘 저녁 뭐 먹지", ("parking", 0.6), scope=0.1)
    assert reasons(talk) == [("차 가져가도 되나", UNSURE, "parking"), ("오늘 저녁 뭐 먹지", UNSURE, "")]


def test_what_the_customer_took_back(talk: Talk) -> None:
    talk.say("약속 잡고 싶어요", "order")
    talk.say("아니 그거 말고 취소")
    talk.say("취소")
    found = reasons(talk)
    assert ("약속 잡고 싶어요", REGRETTED, "") in found or found == []
    assert all(text != "취소" for text, _, _ in found)


def test_an_answer_followed_by_a_call_for_a_person(talk: Talk) -> None:
    talk.say("차를 어디다 대죠", "price")
    talk.say("상담원 연결해 주세요")
    assert reasons(talk) == [("차를 어디다 대죠", REGRETTED, "")]


def test_thumbs(talk: Talk) -> None:
    talk.say("차를 어디다 대죠", "price")
    talk.say("진료비 알려 줘", "price")
    for message, value in (("m1", "down"), ("m2", "up")):
        data = {"message": message, "value": value, "note": "", "who": "customer"}
        talk.pipeline.conversations.change(talk.id, lambda _, data=data: [Event("feedback", data, iso(MONDAY))])
    assert reasons(talk) == [("차를 어디다 대죠", DISLIKED, "")]


def test_answers_to_questions_are_nothing_to_look_at(talk: Talk) -> None:
    talk.say("주문할게요", "order")
    talk.say("음 글쎄요")
    talk.say("작은 거")
    talk.say("네")
    assert reasons(talk) == []


def test_personal_data_stays_masked(talk: Talk) -> None:
    talk.say("제 번호 010-1234-5678인데 그거 돼요?", ("contact", 0.3))
    ((text, _, _),) = reasons(talk)
    assert "1234" not in text
    assert "<phone>" in text


# -- groups -----------------------------------------------------------------------------------------------------------

TOPICS = {
    "쿠폰": ["쿠폰이 적용이 안 돼요", "쿠폰 적용 안돼요", "할인쿠폰적용이안되는데요", "쿠폰 왜 적용이 안 되죠"],
    "환불": ["환불 언제 되나요", "환불은 언제되나요?", "환불이 언제 들어와요", "언제 환불되나요"],
    "passport": ["I lost my passport", "my passport was lost", "lost passport what now"],
}


def test_what_is_alike_is_one_group_with_a_name() -> None:
    texts = [text for inner in TOPICS.values() for text in inner]
    of = {text: topic for topic, inner in TOPICS.items() for text in inner}
    groups = group(texts)
    assert len(groups) == 3
    for one in groups:
        (topic,) = {of[texts[member]] for member in one.members}
        assert topic in one.name
        assert len(one.members) == len(TOPICS[topic])
    assert group([]) == []
    assert [one.members for one in group(["…"])] == [(0,)]


def test_the_same_text_counts_as_often_as_it_was_said() -> None:
    (one,) = group(["비밀번호 변경"] * 3 + ["비밀번호변경"])
    assert len(one.members) == 4


def test_more_texts_than_are_linked_join_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solutions.contact_center.grouping.MOST", 8)
    texts = [text for inner in TOPICS.values() for text in inner]
    groups = group(texts)
    assert {member for one in groups for member in one.members} == set(range(len(texts)))
    assert sum(len(one.members) for one in groups) == len(texts)
    assert len(groups[0].members) == 4


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
def test_groups_of_real_utterances_hold_what_belongs_together() -> None:
    validation = json.loads((DATA / "clinc150" / "data_full.json").read_text(encoding="utf-8"))["val"]
    intents = sorted({intent for _, intent in validation})[::5]
    kept = [(text, intent) for text, intent in validation if intent in intents]
    groups = group([text for text, _ in kept])
    pure = together = 0
    for one in groups:
        labels = [kept[member][1] for member in one.members]
        pure += max(labels.count(label) for label in set(labels))
        together += len(labels) if len(labels) > 1 else 0
    assert pure / len(kept) > 0.9, "nine of ten utterances are in a group of their own kind"
    assert together / len(kept) > 0.75, "three of four are in a group at all"


# -- labels -----------------------------------------------------------------------------------------------------------


def ask(clinic: Bot, records: Records, texts: Sequence[str], guess: str = "parking") -> None:
    for number, text in enumerate(texts):
        talk = Talk(clinic, records, id=f"clinic/{guess}{number}")
        talk.time += dt.timedelta(minutes=number)
        talk.say(text, (guess, 0.3))


def test_a_label_settles_a_group_until_it_is_withdrawn(clinic: Bot, records: Records, review: Review) -> None:
    ask(clinic, records, TOPICS["쿠폰"] + TOPICS["환불"])
    first, second = review.groups()
    assert {len(first.texts), len(second.texts)} == {4}
    assert review.label([(text, "ko") for text in first.texts], "coupon", "kim") == 4
    (left,) = review.groups()
    assert set(left.texts) == set(second.texts)
    assert {(one.label, one.who, one.language) for one in review.labels()} == {("coupon", "kim", "ko")}
    review.label([(first.texts[0], "ko")], "oos", "lee")
    assert {one.label for one in review.labels() if one.text == first.texts[0]} == {"oos"}
    review.withdraw([(text, "ko") for text in first.texts], "lee")
    assert review.labels() == []
    assert len(review.groups()) == 2
    history = Streams(records).read("contact_center.review", "clinic")
    assert [event.data["who"] for event in history] == ["kim", "lee", "lee"], "nothing is overwritten"


def test_labels_that_cannot_be(clinic: Bot, review: Review) -> None:
    for label in ("Coupon!", "쿠폰", "a" * 99, "../x"):
        with pytest.raises(BadInput, match="cannot name an intent"):
            review.label([("쿠폰이 안 돼요", "ko")], label, "kim")
    with pytest.raises(BadInput, match="1 to"):
        review.label([], "order", "kim")
    assert review.labels() == []


def test_two_people_label_at_once(clinic: Bot, records: Records) -> None:
    from concurrent.futures import ThreadPoolExecutor

    reviews = [Review(Streams(records), clinic) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: reviews[n % 4].label([(f"쿠폰 {n}번", "ko")], "coupon", f"p{n}"), range(24)))
    assert done == [1] * 24
    assert len(reviews[0].labels()) == 24


def test_examples_of_the_bot_are_not_asked_about(clinic: Bot, records: Records, review: Review) -> None:
    ask(clinic, records, ["주차 되나요", "주차되나요", "주차장 요금 있나요"])
    assert [one.text for one in review.pending()] == ["주차장 요금 있나요"]


def test_the_suggestion_is_what_customers_chose(clinic: Bot, records: Records, review: Review) -> None:
    for number, text in enumerate(["차 가져가도 되나", "차 가져가도 되나요", "차를 가져가도 되나요"]):
        talk = Talk(clinic, records, id=f"clinic/{number}")
        talk.say(text, ("parking", 0.5))
        talk.say("네" if number else "아니요")
    (one,) = review.groups()
    assert one.suggestion == "parking"
    assert one.reasons == {UNSURE: 3}


# -- export -----------------------------------------------------------------------------------------------------------


def test_an_export_is_read_with_the_rest_and_keeps_what_people_add(records: Records, tmp_path: Path) -> None:
    bot = make_bot(tmp_path / "clinic")
    review = Review(Streams(records), bot)
    review.label([("약속 [급함] 잡아 줘", "ko"), ("make me an appointment", "en")], "book", "kim")
    review.label([("차 대도 돼요?", "ko")], "parking", "kim")
    review.label([("쿠폰이 안 돼요", "ko"), ("no: yes", "en")], "coupon", "kim")
    review.label([("저녁 뭐 먹지", "ko")], "oos", "kim")
    review.label([("제 번호는 <phone>이에요", "ko"), ("010", "ko")], "contact", "kim")
    review.label([("ㅋㅋㅋ", "ko")], "", "kim")
    assert review.export(bot.folder or Path()) == {"book": 2, "coupon": 2, "oos": 1, "contact": 1, "parking": 1}
    after = load(tmp_path / "clinic")
    assert "약속 [급함] 잡아 줘" in [one.text for one in after.intents["book"].examples]
    assert after.intents["book"].title == bot.intents["book"].title
    assert "make me an appointment" in [one.text for one in after.intents["book"].by_language["en"]]
    assert "차 대도 돼요?" in after.faqs["parking"].questions
    assert after.faqs["parking"].answer == bot.faqs["parking"].answer
    assert [one.text for one in after.intents["coupon"].examples] == ["쿠폰이 안 돼요", "no: yes"]
    assert after.intents["coupon"].response == "no_answer"
    assert {"010"} == {one.text for one in after.intents["contact"].examples} - {
        one.text for one in bot.intents["contact"].examples
    }

    file = tmp_path / "clinic" / "intents" / "reviewed.yaml"
    edited = file.read_text(encoding="utf-8").replace("make me an appointment", "'[Dr Kim](doctor) please'")
    file.write_text(edited.replace("쿠폰이 안 돼요", "쿠폰이 왜 안 돼요"), encoding="utf-8")
    review.label([("Dr Kim please", "en")], "book", "kim")
    review.label([("no: yes", "en")], "oos", "kim")
    counts = review.export(tmp_path / "clinic")
    assert counts["oos"] == 2
    text = file.read_text(encoding="utf-8")
    assert text.count("[Dr Kim](doctor) please") == 1, "the mark stays, and the text is not there twice"
    assert "쿠폰이 왜 안 돼요" in text, "what people wrote stays"
    assert review.export(tmp_path / "clinic") == counts
    assert file.read_text(encoding="utf-8") == text, "the same again changes nothing"


def test_a_folder_with_mistakes_is_left_as_it_is(records: Records, tmp_path: Path) -> None:
    bot = make_bot(tmp_path / "clinic")
    review = Review(Streams(records), bot)
    review.label([("약속 잡아 줘", "ko")], "book", "kim")
    (tmp_path / "clinic" / "flows" / "more.yaml").write_text("- flow: [", encoding="utf-8")
    with pytest.raises(BadInput, match=r"more\.yaml"):
        review.export(tmp_path / "clinic")
    assert not (tmp_path / "clinic" / "intents" / "reviewed.yaml").exists()
    (tmp_path / "clinic" / "flows" / "more.yaml").unlink()
    reviewed = tmp_path / "clinic" / "intents" / "reviewed.yaml"
    reviewed.write_text("- {intent: book, examples: [a], flow: order}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"reviewed\.yaml:1"):
        review.export(tmp_path / "clinic")


# -- champion and challenger ------------------------------------------------------------------------------------------


class Fixed:
    """Says for each text what it was given: (intent, confidence, scope)."""

    bot = None
    thresholds = Limits(0.7, 0.4, 0.5)

    def __init__(self, says: Callable[[str], tuple[str, float, float]]) -> None:
        self._says = says

    def understand(self, text: str, now: dt.datetime) -> Understanding:
        name, confidence, scope = self._says(text)
        return Understanding(text, (IntentScore(name, confidence), IntentScore("other", 0.05)), scope, scope)


TEXTS = [HeldOut(f"utterance number {number}", "oos" if number % 5 == 0 else f"i{number % 7}") for number in range(300)]
TRUTH = {one.text: one.intent for one in TEXTS}


def model(wrong: Callable[[int], bool]) -> Fixed:
    """Answers everything right but for the utterances named."""

    def says(text: str) -> tuple[str, float, float]:
        number = int(text.rpartition(" ")[2])
        truth = TRUTH[text]
        if wrong(number):
            return ("i99", 0.9, 0.9)
        return ("i99", 0.2, 0.1) if truth == "oos" else (truth, 0.9, 0.9)

    return Fixed(says)


def test_a_better_challenger_is_promoted_with_its_numbers() -> None:
    found = compare(model(lambda n: n % 10 == 1), model(lambda n: n % 50 == 1), TEXTS)
    assert found.verdict == "better"
    assert found.may_be_promoted
    assert (found.champion.right, found.challenger.right) == (270, 294)
    assert (found.only_champion, found.only_challenger) == (0, 24)
    assert found.saved == pytest.approx(24 * 10 / 300)
    assert 0 < found.low < found.saved < found.high
    assert found.p_value == pytest.approx(2 / 2**24)


def test_a_worse_one_is_refused_and_an_equal_one_may_pass() -> None:
    worse = compare(model(lambda n: n % 50 == 1), model(lambda n: n % 10 == 1), TEXTS)
    assert worse.verdict == "refused"
    assert "errs on 24" in worse.why
    same = compare(model(lambda n: n % 10 == 1), model(lambda n: n % 10 == 1), TEXTS)
    assert same.verdict == "not worse"
    assert (same.saved, same.low, same.p_value) == (0.0, 0.0, 1.0)
    doubtful = compare(model(lambda n: n % 60 == 1), model(lambda n: n % 60 == 2), TEXTS)
    assert doubtful.verdict == "refused", "nothing says that it is worse, and nothing that it is not"
    assert doubtful.p_value > 0.05


def test_what_a_bot_was_trained_on_is_left_out(clinic: Bot) -> None:
    trained = Fixed(lambda text: ("book", 0.9, 0.9))
    trained.bot = clinic  # type: ignore[assignment]
    texts = [HeldOut("예약할게요", "book"), HeldOut("진료예약해주세요", "book")]
    other = [HeldOut(f"다른 말 {number}", "book") for number in range(40)]
    assert compare(trained, trained, texts + other).left_out == 2
    with pytest.raises(BadInput, match="30 are needed"):
        compare(trained, trained, texts + other[:20])


def test_conversations_stand_or_fall_together() -> None:
    rng = np.random.default_rng(0)
    groups = [str(number // 20) for number in range(400)]
    effect = np.repeat(rng.normal(0.1, 0.5, 20), 20)
    _, low, high = paired_bootstrap(effect, groups, 0)
    _, alone_low, alone_high = paired_bootstrap(effect, [str(n) for n in range(400)], 0)
    assert high - low > 3 * (alone_high - alone_low), "twenty conversations say less than four hundred utterances"


def test_intervals_and_p_values_are_honest() -> None:
    rng = np.random.default_rng(1)
    covered = rejected = 0
    for seed in range(200):
        differences = rng.choice([-10.0, 0.0, 10.0], 200, p=[0.05, 0.85, 0.1])
        _, low, high = paired_bootstrap(differences, [str(n) for n in range(200)], seed, draws=1000)
        covered += low <= 0.5 <= high
        first = int(rng.binomial(30, 0.5))
        rejected += mcnemar(first, 30 - first) < 0.05
    assert covered >= 180
    assert rejected <= 14, "at most one in twenty, where there is no difference"
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(3, 3) == 1.0


def test_held_out_files(tmp_path: Path) -> None:
    file = tmp_path / "held.csv"
    file.write_text('text,intent,conversation\n"a, b",book,c-1\nc,oos,\n', encoding="utf-8")
    assert read_held_out(file) == [HeldOut("a, b", "book", "c-1"), HeldOut("c", "oos")]
    file.write_text("text\na\n", encoding="utf-8")
    with pytest.raises(BadInput, match="no column intent"):
        read_held_out(file)
    file.write_text("text,intent\na,\n", encoding="utf-8")
    with pytest.raises(BadInput, match=":2: text and intent"):
        read_held_out(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        read_held_out(file)
    with pytest.raises(BadInput, match="cannot be read"):
        read_held_out(tmp_path / "nothing.csv")
