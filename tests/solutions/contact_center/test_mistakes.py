"""Every mistake in a bot's folder is said with its file and line, and all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import BadInput
from solutions.contact_center.config import load
from tests.solutions.contact_center.folders import made


def mistakes(folder: Path) -> list[str]:
    """The lines of what `load` says, without the folder's own path."""
    with pytest.raises(BadInput) as caught:
        load(folder)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


PLAN = {
    "entities.yaml": "- {entity: plan, values: {basic: [small], premium: [large]}}\n",
    "responses.yaml": "- {response: hours, en: x}\n- {response: ask_plan, en: 'Which plan?'}\n",
    "intents.yaml": "- {intent: change, examples: [change my plan]}\n",
}


def flow(*steps: str) -> dict[str, str]:
    return {**PLAN, "flows.yaml": "- flow: change\n  steps:\n" + "".join(f"    - {step}\n" for step in steps)}


CASES: dict[str, tuple[dict[str, str | bytes | None], list[str]]] = {
    "an unknown key": (
        {"faq.yaml": "- faq: wifi\n  question: [x]\n  questions: [y]\n  answer: z\n"},
        ["faq.yaml:2: question: is not known here; did you mean questions?"],
    ),
    "a missing key": ({"faq.yaml": "- faq: wifi\n  answer: z\n"}, ["faq.yaml:1: questions: is missing; add it."]),
    "not YAML": ({"faq.yaml": "- faq: [wifi\n  answer: z\n"}, ["faq.yaml:2: is not YAML here"]),
    "a duplicate key": (
        {"faq.yaml": "- faq: wifi\n  questions: [y]\n  answer: z\n  answer: q\n"},
        ["faq.yaml:4: answer: is given twice, first in line 3; keep one."],
    ),
    "a tag": ({"faq.yaml": "- !!python/object:os.system {faq: x}\n"}, ["faq.yaml:1: has the tag"]),
    "two documents": ({"faq.yaml": "[]\n---\n[]\n"}, ["faq.yaml:2: holds several documents"]),
    "not UTF-8": ({"faq.yaml": b"- faq: a\n  answer: \xff\n"}, ["faq.yaml:2: is not UTF-8"]),
    "no list": (
        {"faq.yaml": "faq: wifi\n"},
        ["faq.yaml:1: must be a list of items, each beginning with `- faq: NAME`."],
    ),
    "an alias too early": ({"faq.yaml": "- *here\n"}, ["faq.yaml:1: uses the alias *here before it is anchored"]),
    "a folder nobody reads": (
        {"intent/a.yaml": "[]\n"},
        ["intent: is not read, for its name is not known; did you mean intents?"],
    ),
    "a duplicate name": (
        {"faq/b.yaml": "- {faq: wifi, questions: [y], answer: z}\n"},
        ["faq/b.yaml:1: faq: wifi is there already, in "],
    ),
    "an empty mark": (
        {"intents.yaml": "- intent: a\n  response: hours\n  examples:\n    - fine\n    - my [](plan)\n"},
        ["intents.yaml:5: examples[2]: the mark [](plan) holds no words"],
    ),
    "an open mark": (
        {"intents.yaml": "- intent: a\n  response: hours\n  examples:\n    - my [basic](plan\n"},
        ["intents.yaml:4: examples[1]: the mark '[basic](plan' is not closed"],
    ),
    "an unknown entity": (
        {**PLAN, "intents.yaml": "- intent: a\n  response: hours\n  examples: ['my [basic](plam)']\n"},
        ["intents.yaml:3: examples[1]: marks 'basic' as plam, which is no entity; did you mean plan?"],
    ),
    "a surface that the list lacks": (
        {**PLAN, "intents.yaml": "- intent: a\n  response: hours\n  examples: ['my [basik](plan)']\n"},
        ["intents.yaml:3: examples[1]: marks 'basik', which plan lacks; did you mean basic?"],
    ),
    "a value that the list lacks": (
        {**PLAN, "intents.yaml": "- intent: a\n  response: hours\n  examples: ['my [b](plan=basik)']\n"},
        ["intents.yaml:3: examples[1]: marks 'b' as the value 'basik', which plan lacks; did you mean basic?"],
    ),
    "a boolean as an example": (
        {"intents.yaml": "- intent: a\n  response: hours\n  examples: [true]\n"},
        ["intents.yaml:3: examples[1]: is YAML's true, no text; put it in quotes."],
    ),
    "an intent that leads nowhere": (
        {"intents.yaml": "- intent: a\n  examples: [b]\n"},
        ["intents.yaml:1: intent: leads nowhere; write the flow a, or the response intent_a, or name another."],
    ),
    "an intent without examples": (
        {"intents.yaml": "- intent: a\n  response: hours\n"},
        ["intents.yaml:1: examples: has no examples"],
    ),
    "oos with an answer": (
        {"intents.yaml": "- intent: oos\n  response: hours\n  examples: [b]\n"},
        ["intents.yaml:2: response: does not go with oos"],
    ),
    "a synonym of two values": (
        {"entities.yaml": "- entity: plan\n  values:\n    basic: [small]\n    mini: [S mall]\n"},
        ["entities.yaml:4: values.mini: 'S mall' stands for 'basic' already"],
    ),
    "the name of a built-in": (
        {"entities.yaml": "- {entity: date, values: [a]}\n"},
        ["entities.yaml:1: entity: date is the name of a built-in; choose another."],
    ),
    "a broken pattern": (
        {"entities.yaml": "- {entity: order, pattern: '([A-Z'}\n"},
        ["entities.yaml:1: pattern: is no regular expression"],
    ),
    "an entity that nothing teaches": (
        {"entities.yaml": "- {entity: symptom}\n"},
        ["entities.yaml:1: kind: is learned from examples, and none marks it"],
    ),
    "no text in a language": (
        {
            "bot.yaml": "name: cafe\nlanguages: [en, ko]\n",
            "responses.yaml": "- {response: hours, en: x, ko: y}\n",
        },
        ["faq.yaml:1: answer: has no text in ko; add one."],
    ),
    "a text in another language": (
        {"responses.yaml": "- response: hours\n  en: x\n  kr: y\n"},
        ["responses.yaml:3: kr: has a text in kr, which `languages` in bot.yaml lacks (en); add it there."],
    ),
    "an expression in a response": (
        {"responses.yaml": "- response: hours\n  en: ['a', 'at {slot.__class__}']\n"},
        ["responses.yaml:2: en[2]: holds {slot.__class__}; only {slot} may stand in braces"],
    ),
    "a placeholder that no slot has": (
        {"responses.yaml": "- response: hours\n  en: 'at {time}'\n"},
        ["responses.yaml:2: en[1]: holds {time}, and no slot is called so; there is none."],
    ),
    "a placeholder in an answer": (
        {"faq.yaml": "- faq: wifi\n  questions: [y]\n  answer: 'key {key}'\n"},
        ["faq.yaml:3: answer: holds {key}, and an answer knows no slots"],
    ),
    "an unknown response": (
        flow("{collect: plan}", "{say: hour}"),
        ["flows.yaml:4: steps[2].say: hour is no response; did you mean hours?"],
    ),
    "no question for a slot": (
        flow("{collect: plans, entity: plan}"),
        ["flows.yaml:3: steps[1].collect: ask_plans is no response; did you mean ask_plan?; or name the slot's"],
    ),
    "an unknown entity of a slot": (
        flow("{collect: size, entity: plam, ask: ask_plan}"),
        ["flows.yaml:3: steps[1].entity: plam is no entity; did you mean plan?"],
    ),
    "an unknown action": (
        flow("{act: chnage}"),
        ["flows.yaml:3: steps[1].act: chnage is no action; there is none."],
    ),
    "an unknown label": (
        flow("{collect: plan}", "{goto: lost}", "{label: last, say: hours}"),
        ["flows.yaml:4: steps[2].goto: lost is no label of this flow; did you mean last?"],
    ),
    "a step that is never reached": (
        flow("{collect: plan}", "{end: true}", "{say: hours}", "{label: b, say: hours}"),
        [
            "flows.yaml:5: steps[3]: is never reached; lead to it with `goto`, or remove it.",
            "flows.yaml:6: steps[4]: is never reached",
        ],
    ),
    "a circle without a question": (
        flow("{label: a, say: hours}", "{goto: a}"),
        ["flows.yaml:4: steps[2]: leads back to itself without a question on the way"],
    ),
    "a slot that the flow never fills": (
        flow("{collect: plan}", "branch: [{when: {slot: size, equals: 1}, goto: b}]", "{label: b, say: hours}"),
        ["flows.yaml:4: steps[2].branch[1].when.slot: size is no slot of this flow; there are: plan."],
    ),
    "a personal slot that is none": (
        {**flow("{collect: plan}"), "flows.yaml": "- flow: change\n  personal: [pln]\n  steps: [{collect: plan}]\n"},
        ["flows.yaml:2: personal[1]: pln is no slot of the flow; did you mean plan?"],
    ),
    "two keys in a step": (
        flow("{collect: plan, say: hours}"),
        ["flows.yaml:3: steps[1]: is no step; write exactly one of collect, branch"],
    ),
    "a label twice": (
        flow("{label: a, collect: plan}", "{label: a, say: hours}"),
        ["flows.yaml:4: steps[2].label: a is the label of step 1 already"],
    ),
    "a condition that asks nothing": (
        flow("{label: a, collect: plan}", "branch: [{when: {slot: plan}, goto: a}]"),
        ["flows.yaml:4: steps[2].branch[1].when: asks nothing of the slot"],
    ),
    "an impossible check": (
        flow("{collect: plan, validate: {min: 3, max: 2}}"),
        ["flows.yaml:3: steps[1].validate: min 3 is above max 2; exchange them."],
    ),
    "no moment": (
        flow("{collect: plan, validate: {after: soon}}"),
        ["flows.yaml:3: steps[1].validate.after: 'soon' is no moment"],
    ),
    "a host that is not allowed": (
        {"actions.yaml": "- action: a\n  http: {url: 'https://a.example/x', allow: [b.example]}\n"},
        ["actions.yaml:2: http: url leads to a.example, which `allow` does not name; add it there."],
    ),
    "neither http nor function": ({"actions.yaml": "- action: a\n"}, ["actions.yaml:1: needs either `http` or"]),
    "a test of what is not there": (
        {"tests.yaml": "- test: a\n  steps:\n    - {user: hi, expect: {intent: opning, slot: {plan: 1}}}\n"},
        [
            "tests.yaml:3: steps[1].expect.intent: opning is not there; did you mean opening?",
            "tests.yaml:3: steps[1].expect.slot.plan: no flow has the slot",
        ],
    ),
    "a name with capitals": (
        {"faq.yaml": "- {faq: Wifi Key, questions: [y], answer: z}\n"},
        ["faq.yaml:1: faq: must be made of a-z, 0-9 and _, and begin with a letter (it is 'Wifi Key')."],
    ),
    "a list where text belongs": (
        {"faq.yaml": "- faq: wifi\n  questions: [y]\n  answer: [z]\n"},
        ["faq.yaml:3: answer: must be text; put it in quotes."],
    ),
    "no time zone": (
        {"bot.yaml": "name: a\nlanguages: [en]\ntimezone: Seoul\n"},
        ["bot.yaml:3: timezone: 'Seoul' is no"],
    ),
    "an unknown greeting": (
        {"bot.yaml": "name: a\nlanguages: [en]\nchannels:\n  web: {greeting: hourz}\n"},
        ["bot.yaml:4: channels.web.greeting: hourz is no response; did you mean hours?"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_said_with_its_file_and_line(case: str, tmp_path: Path) -> None:
    files, expected = CASES[case]
    said = mistakes(made(tmp_path, files))
    assert len(said) == len(expected), said
    for line, start in zip(said, expected, strict=True):
        assert line.startswith(start), line


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    files = {
        "bot.yaml": "name: A Cafe\nlanguages: [en]\n",
        "faq.yaml": "- {faq: wifi, question: [x], answer: y}\n- {faq: b, questions: [z]}\n",
        "intents.yaml": "- intent: opening\n  examples: ['[a](b', '[](c)']\n",
    }
    said = mistakes(made(tmp_path, files))
    assert [line.split(": ")[0] for line in said] == [
        "bot.yaml:1",
        "faq.yaml:1",
        "faq.yaml:1",
        "faq.yaml:2",
        "intents.yaml:2",
        "intents.yaml:2",
    ]


@pytest.mark.parametrize("content", [None, "", "- a\n", "just words\n"])
def test_a_folder_without_a_usable_bot_yaml(content: str | None, tmp_path: Path) -> None:
    assert mistakes(made(tmp_path, {"bot.yaml": content}))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no folder"):
        load(tmp_path / "none")


def test_what_would_grow_without_bounds_is_refused(tmp_path: Path) -> None:
    billion = "- &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"- &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
    )
    for content, what in ((billion, "holds more than"), ("- " + "[" * 5000, "nested deeper"), ("x" * (9 << 20), "MiB")):
        assert what in mistakes(made(tmp_path, {"faq.yaml": content}))[0]


def test_an_alias_inside_of_bounds_is_what_it_stands_for(tmp_path: Path) -> None:
    bot = load(
        made(
            tmp_path,
            {"faq.yaml": "- {faq: a, questions: &q [x, y], answer: z}\n- {faq: b, questions: *q, answer: z}\n"},
        )
    )
    assert bot.faqs["b"].questions == ["x", "y"]
