"""A bot's folder: what is written in it comes out of it, and nothing that is written breaks the reading of it."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import BadInput
from shared.yaml_files import Mistakes, parse, scalar
from solutions.contact_center import marks
from solutions.contact_center.config import SECTIONS, Bot, BranchStep, CollectStep, Hours, in_language, load, moment
from tests.solutions.contact_center.folders import MINIMAL, made

TEMPLATES = Path(__file__).parents[3] / "solutions" / "contact_center" / "templates"
FOLDERS = sorted(path.parent for path in TEMPLATES.glob("*/bot.yaml"))
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# --- what is written comes out ----------------------------------------------------------------------------------------


def test_three_short_files_are_a_bot(tmp_path: Path) -> None:
    bot = load(made(tmp_path, {}))
    assert bot.settings.language == "en"
    assert [one.text for one in bot.intents["opening"].examples] == ["when do you open", "are you open today"]
    assert bot.faqs["wifi"].answer == {"en": "There is."}
    assert bot.settings.thresholds.answer is None
    assert bot.settings.costs.wrong_answer == 10.0


def test_marks_become_places_in_plain_text(tmp_path: Path) -> None:
    entities = "- {entity: plan, values: {5G 스탠다드: [스탠다드]}}\n"
    intents = """
- intent: opening
  response: hours
  examples:
    - 요금제를 [5G 스탠다드](plan)로 바꿔 주세요
    - "[내일 3시](datetime) and [standard](plan=5G 스탠다드)"
    - a \\[plain\\] bracket [주의] and 114
    - yes
"""
    bot = load(made(tmp_path, {"entities.yaml": entities, "intents.yaml": intents}))
    first, second, third, fourth = bot.intents["opening"].examples
    assert first.text == "요금제를 5G 스탠다드로 바꿔 주세요"
    assert [(first.text[m.start : m.end], m.entity, m.value) for m in first.marks] == [("5G 스탠다드", "plan", None)]
    assert [(second.text[m.start : m.end], m.entity, m.value) for m in second.marks] == [
        ("내일 3시", "datetime", None),
        ("standard", "plan", "5G 스탠다드"),
    ]
    assert third.text == "a [plain] bracket [주의] and 114"
    assert fourth.text == "yes"


def test_several_languages_are_kept_apart(tmp_path: Path) -> None:
    files = {
        "bot.yaml": "name: cafe\nlanguages: [ko, en]\n",
        "intents.yaml": "- intent: opening\n  response: hours\n  examples: {ko: [언제 여나요], en: [do you open]}\n",
        "faq.yaml": "- {faq: wifi, questions: {ko: [와이파이], en: [wifi]}, answer: {ko: 있어요., en: There is.}}\n",
        "responses.yaml": "- {response: hours, ko: 아홉 시에 열어요., en: [At nine., We open at nine.]}\n",
    }
    bot = load(made(tmp_path, files))
    assert [(one.language, one.text) for one in bot.intents["opening"].examples] == [
        ("ko", "언제 여나요"),
        ("en", "do you open"),
    ]
    assert bot.responses["hours"].texts == {"ko": ["아홉 시에 열어요."], "en": ["At nine.", "We open at nine."]}
    assert in_language(bot.faqs["wifi"].answer, "en") == "There is."
    assert in_language(bot.faqs["wifi"].answer, "fr") == "있어요."


def test_yaml_keeps_text_as_it_is_written() -> None:
    content = (
        b"a: [yes, no, on, 010, 09:00, 2026-01-01, 1e5, 3.10, 0x1F, +82, .5]\nb: [true, null, 7, -3, 2.5]\nno: 1\n"
    )
    document = parse(content, "f", Mistakes())
    assert document is not None
    assert document.value == {
        "a": ["yes", "no", "on", "010", "09:00", "2026-01-01", "1e5", "3.10", "0x1F", "+82", ".5"],
        "b": [True, None, 7, -3, 2.5],
        "no": 1,
    }


@given(st.text(alphabet="0123456789.-+e", max_size=12) | st.integers().map(str) | st.floats().map(repr))
def test_a_number_is_one_only_where_it_prints_as_written(text: str) -> None:
    value = scalar(text)
    assert value is None if text == "" else str(value) == text


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_package_carries_the_same_bot(folder: Path) -> None:
    bot = load(folder)
    carried = json.loads(json.dumps(bot.as_dict(), ensure_ascii=False))
    back = Bot.from_dict(carried)
    assert back == bot.model_copy(update={"folder": None})
    assert back.fingerprint == bot.fingerprint


def test_the_fingerprint_is_of_what_is_said_not_how(tmp_path: Path) -> None:
    before = load(made(tmp_path, {})).fingerprint
    moved = {
        "intents.yaml": None,
        "intents/a.yaml": "# a comment\n" + MINIMAL["intents.yaml"].replace("[when", "[ when"),
    }
    assert load(made(tmp_path, moved)).fingerprint == before
    other = MINIMAL["intents.yaml"].replace("today", "tomorrow")
    assert load(made(tmp_path, {"intents.yaml": other})).fingerprint != before


def test_a_damaged_bot_in_a_package_is_refused() -> None:
    with pytest.raises(BadInput, match=r"settings\.name"):
        Bot.from_dict({"settings": {"name": "Not A Name"}})


def test_hours_and_moments() -> None:
    hours = Hours.model_validate({"mon": ["09:00-12:00", "13:00-18:00"], "holidays": ["2026-03-09"]})
    assert hours.open_at(dt.datetime(2026, 3, 2, 9, 0))
    assert not hours.open_at(dt.datetime(2026, 3, 2, 12, 30))
    assert not hours.open_at(dt.datetime(2026, 3, 2, 18, 0))
    assert not hours.open_at(dt.datetime(2026, 3, 3, 10, 0))
    assert not hours.open_at(dt.datetime(2026, 3, 9, 10, 0))
    now = dt.datetime(2026, 3, 2, 10, 30, tzinfo=dt.UTC)
    assert moment("today+2d", now) == dt.datetime(2026, 3, 4, tzinfo=dt.UTC)
    assert moment("now - 2h", now) == dt.datetime(2026, 3, 2, 8, 30, tzinfo=dt.UTC)
    assert moment("2026-12-31", now) == dt.datetime(2026, 12, 31, tzinfo=dt.UTC)
    for wrong in ("soon", "2026-02-30", "now+1y", "9999-12-31+99999d"):
        with pytest.raises(ValueError):
            moment(wrong, now)


# --- whatever is written ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["plan", "hours", "opening", "a", "b", "oos", "text", "date", "5", "", "A b", "가"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | NAMES
WORDS = """
    faq questions answer buttons title say url intent examples flow response entity values pattern kind builtin steps
    collect validate ask branch when slot equals not in goto otherwise label act arguments save set hand_over end
    confirm action http method allow function en ko text channels test user expect wait_minutes name languages hours
    timezone policies after before length personal repeat now check
"""
KEYS = st.sampled_from(WORDS.split())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20
)
FILES = st.sampled_from(["bot.yaml", *(f"{one}.yaml" for one in ("intents", "entities", "faq", "flows", "actions"))])


def is_bot_or_bad_input(folder: Path) -> None:
    try:
        bot = load(folder)
    except BadInput as error:
        said = str(error)
    else:
        said = str(folder)
        assert Bot.from_dict(json.loads(json.dumps(bot.as_dict()))).fingerprint == bot.fingerprint
    assert said.startswith(str(folder))


@FUZZ
@given(
    file=FILES,
    content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
)
def test_any_bytes_are_a_bot_or_bad_input(file: str, content: bytes, tmp_path: Path) -> None:
    is_bot_or_bad_input(made(tmp_path, {file: content}))


@FUZZ
@given(
    name=st.sampled_from(["intents", "entities", "faq", "flows", "actions", "responses", "tests"]),
    items=st.lists(st.dictionaries(KEYS, VALUES, max_size=6) | VALUES, max_size=3),
)
def test_any_structure_is_a_bot_or_bad_input(name: str, items: list[Any], tmp_path: Path) -> None:
    is_bot_or_bad_input(made(tmp_path, {f"{name}.yaml": yaml.safe_dump(items, allow_unicode=True)}))


@pytest.fixture(scope="module")
def template_files() -> list[tuple[str, str]]:
    folder = TEMPLATES / "shop-en"
    return [(str(path.relative_to(folder)), path.read_text("utf-8")) for path in sorted(folder.rglob("*.yaml"))]


@FUZZ
@given(data=st.data())
def test_a_template_with_a_slip_is_a_bot_or_bad_input(
    data: st.DataObject, template_files: list[tuple[str, str]], tmp_path: Path
) -> None:
    name, text = data.draw(st.sampled_from(template_files))
    start = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 12))
    new = data.draw(
        st.sampled_from(["", " ", "\n", ":", "- ", "[", "]", "{", "}", '"', "'", "#", "\t", "가", "*", "&x "])
    )
    is_bot_or_bad_input(made(tmp_path, {name: text[:start] + new + text[start + cut :]}, base=dict(template_files)))


@given(
    st.lists(
        st.tuples(
            st.text(alphabet="ab가 [](=)\\", max_size=6),
            st.text(alphabet="xy나", min_size=1, max_size=4),
            st.sampled_from([None, "v", "5G 스탠다드"]),
        ),
        max_size=4,
    )
)
def test_marks_are_written_and_read_back(pieces: list[tuple[str, str, str | None]]) -> None:
    text, found = "", []
    for before, surface, value in pieces:
        text += before.replace("\\", "")
        found.append(marks.Mark(len(text), len(text) + len(surface), "plan", value))
        text += surface
    assert marks.parse(marks.write(text, found)) == (text, tuple(found))


# --- the templates ----------------------------------------------------------------------------------------------------


def test_every_template_is_there_in_both_languages() -> None:
    assert [path.name for path in FOLDERS] == [
        f"{one}-{two}" for one in ("bank", "shop", "telecom") for two in ("en", "ko")
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_templates_are_as_large_as_they_promise(folder: Path) -> None:
    bot = load(folder)
    large = folder.name.startswith("telecom")
    intents = [one for name, one in bot.intents.items() if name != "oos"]
    assert len(intents) >= (25 if large else 8)
    assert all(len(one.examples) >= 12 for one in intents)
    assert len(bot.intents["oos"].examples) >= 20
    assert len(bot.faqs) >= (40 if large else 10)
    assert all(3 <= len(one.questions) <= 5 for one in bot.faqs.values())
    assert len(bot.flows) >= (6 if large else 2)
    tested = {step.expect.flow for test in bot.tests.values() for step in test.messages()}
    assert set(bot.flows) <= tested
    if large:
        kinds = {type(step) for one in bot.flows.values() for step in one.steps}
        assert {BranchStep, CollectStep} <= kinds


@pytest.mark.parametrize("name", ["telecom", "bank", "shop"])
def test_the_english_bot_is_the_korean_ones_twin(name: str) -> None:
    korean, english = load(TEMPLATES / f"{name}-ko"), load(TEMPLATES / f"{name}-en")
    assert set(korean.intents) == set(english.intents)
    assert set(korean.responses) == set(english.responses)
    assert {key: [type(step) for step in one.steps] for key, one in korean.flows.items()} == {
        key: [type(step) for step in one.steps] for key, one in english.flows.items()
    }
    assert not any(_hangul(json.dumps(english.as_dict(), ensure_ascii=False)))


def _hangul(text: str) -> Iterator[str]:
    return (character for character in text if "가" <= character <= "힣")


def test_the_readmes_bot_is_one(tmp_path: Path) -> None:
    readme = (TEMPLATES.parent / "README.md").read_text("utf-8")
    files = dict(re.findall(r"^```yaml\n# ([a-z]+\.yaml)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL))
    bot = load(made(tmp_path, files, base={}))
    assert set(files) == {"bot.yaml", *(f"{section}.yaml" for section in SECTIONS)}
    assert [mark.entity for one in bot.intents["order_coffee"].examples for mark in one.marks] == ["size", "size"]
