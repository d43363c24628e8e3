"""What refers to what in a bot's folder: every name must lead somewhere, every text be there in every language.

What is found here stops the bot; what merely could be better is said by `advice.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.yaml_files import NAME, Mistakes, did_you_mean, read
from solutions.contact_center.bot_models import (
    BUILTIN_ENTITIES,
    OOS,
    RESERVED_INTENTS,
    WHOLE_TEXT,
    Button,
    EntityConfig,
    FaqConfig,
    IntentConfig,
)
from solutions.contact_center.flow_models import CHANNELS, ResponseConfig, TestConfig
from solutions.contact_center.flow_references import check_flow

if TYPE_CHECKING:
    from solutions.contact_center.folder import Source

PATTERNS = Path(__file__).parent / "dialogue" / "patterns"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_SPACES = re.compile(r"\s+")


def check(source: Source) -> None:
    """Note every reference that leads nowhere and every text that is missing."""
    _check_settings(source)
    for name, entity in source.items["entities"].items():
        _check_entity(source, name, entity)
    for name, intent in source.items["intents"].items():
        _check_intent(source, name, intent)
    for name, faq in source.items["faq"].items():
        _check_faq(source, name, faq)
    for name, response in source.items["responses"].items():
        _check_response(source, name, response)
    for name, flow in source.items["flows"].items():
        check_flow(source, name, flow)
    for name, test in source.items["tests"].items():
        _check_test(source, name, test)
    _check_learned(source)


@functools.cache
def provided_responses() -> dict[str, frozenset[str]]:
    """Responses that every bot has without writing them, and the placeholders they use."""
    found: dict[str, frozenset[str]] = {}
    for path in sorted(PATTERNS.rglob("*.yaml")):
        document = read(path, str(path), Mistakes())
        for name, item in _responses_in(document.value if document else None):
            texts = str([inner for key, inner in item.items() if key != "buttons"])
            found[name] = found.get(name, frozenset()) | frozenset(_PLACEHOLDER.findall(texts))
    return found


def _responses_in(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every `{response: NAME, ...}` in a file, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("response"), str) and "intent" not in value:
            yield value["response"], value
        for inner in value.values():
            yield from _responses_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _responses_in(inner)


def known_responses(source: Source) -> set[str]:
    """Names that a response may be called by."""
    return {*source.written["responses"], *provided_responses()}


def known_entities(source: Source) -> set[str]:
    """Names that a mark or a slot's `entity` may use, besides `text`."""
    return {*source.written["entities"], *BUILTIN_ENTITIES}


def placeholders(text: str) -> list[str]:
    """What stands between braces."""
    return _PLACEHOLDER.findall(text)


# --- languages --------------------------------------------------------------------------------------------------------


def check_languages(
    source: Source, section: str, name: str, field: str, texts: Mapping[str, Any], *, required: bool = True
) -> None:
    """Every language of the bot has a text, and no other has one. A text that is left out altogether is no mistake
    where it is not required."""
    assert source.settings is not None
    languages = source.settings.languages
    path = (field,) if field else ()
    for language in texts:
        if language not in languages:
            what = (
                f"has a text in {language}, which `languages` in bot.yaml lacks ({', '.join(languages)}); add it there"
            )
            source.note(section, name, (*path, language), what)
    if texts or required:
        for language in languages:
            if not texts.get(language):
                what = f"has no text in {language}; add one"
                source.note(section, name, path, what, field or language)


def _check_buttons(source: Source, section: str, name: str, buttons: list[Button]) -> None:
    assert source.settings is not None
    for index, button in enumerate(buttons):
        for field, texts, required in (("title", button.title, True), ("say", button.say, False)):
            missing = [one for one in source.settings.languages if (texts or required) and one not in texts]
            if missing:
                what = f"has no text in {missing[0]}; add one"
                source.note(section, name, ("buttons", index, field), what)


# --- bot.yaml, entities, intents --------------------------------------------------------------------------------------


def _check_settings(source: Source) -> None:
    assert source.settings is not None
    responses = known_responses(source)
    for channel, settings in source.settings.channels.items():
        if settings.greeting is not None and settings.greeting not in responses:
            what = f"{settings.greeting} is no response; {did_you_mean(settings.greeting, responses)}"
            source.note_settings(("channels", channel, "greeting"), what)
    for language in source.settings.title:
        if language not in source.settings.languages:
            what = f"has a text in {language}, which `languages` lacks; add it there"
            source.note_settings(("title", language), what)


def squeezed(text: str) -> str:
    """Without spaces and case, as names of one thing are compared."""
    return _SPACES.sub("", text).casefold()


def _check_entity(source: Source, name: str, entity: EntityConfig) -> None:
    check_languages(source, "entities", name, "title", entity.title, required=False)
    if name == WHOLE_TEXT or (name in BUILTIN_ENTITIES and entity.kind != "builtin"):
        source.note("entities", name, ("entity",), f"{name} is the name of a built-in; choose another")
    known: dict[str, str] = {}
    for canonical, synonyms in entity.values.items():
        for word in (canonical, *synonyms):
            first = known.setdefault(squeezed(word), canonical)
            if first != canonical:
                what = f"{word!r} stands for {first!r} already; leave it with one of the two"
                source.note("entities", name, ("values", canonical), what)


def _check_intent(source: Source, name: str, intent: IntentConfig) -> None:
    check_languages(source, "intents", name, "title", intent.title, required=False)
    assert source.settings is not None
    for language in intent.by_language:
        if language not in source.settings.languages:
            what = f"{language} is not among `languages` in bot.yaml; add it there"
            source.note("intents", name, ("examples", language), what)
    if not intent.examples and name not in RESERVED_INTENTS:
        source.note("intents", name, (), "has no examples; write some, in the customers' own words", "examples")
    _check_destination(source, name, intent)
    for language, examples in intent.by_language.items():
        for index, example in enumerate(examples):
            for mark in example.marks:
                surface = example.text[mark.start : mark.end]
                wrong = _wrong_mark(source, mark.entity, surface, mark.value)
                if wrong:
                    source.note("intents", name, ("examples", language, index), wrong)


def _check_destination(source: Source, name: str, intent: IntentConfig) -> None:
    flows, responses = source.written["flows"], known_responses(source)
    if name == OOS:
        for field in ("flow", "response"):
            if getattr(intent, field) is not None:
                source.note("intents", name, (field,), "does not go with oos, what is out of scope; remove it")
        return
    if intent.flow is not None and intent.flow not in flows:
        source.note("intents", name, ("flow",), f"{intent.flow} is no flow; {did_you_mean(intent.flow, flows)}")
    if intent.response is not None and intent.response not in responses:
        what = f"{intent.response} is no response; {did_you_mean(intent.response, responses)}"
        source.note("intents", name, ("response",), what)
    if intent.flow is not None and intent.response is not None:
        source.note("intents", name, ("response",), "does not go together with `flow`; remove one of the two")
    nowhere = intent.flow is None and intent.response is None and name not in RESERVED_INTENTS
    if nowhere and name not in flows and f"intent_{name}" not in responses:
        what = f"leads nowhere; write the flow {name}, or the response intent_{name}, or name another"
        source.note("intents", name, (), what, "intent")


def _wrong_mark(source: Source, entity: str, surface: str, value: str | None) -> str:
    """What is wrong with a mark in an example; empty: nothing."""
    known = known_entities(source)
    if entity not in known:
        return f"marks {surface!r} as {entity}, which is no entity; {did_you_mean(entity, known)}"
    config = source.items["entities"].get(entity)
    if config is None:
        return ""
    if config.kind == "list":
        words = {squeezed(word): word for one, synonyms in config.values.items() for word in (one, *synonyms)}
        if value is not None and value not in config.values:
            return (
                f"marks {surface!r} as the value {value!r}, which {entity} lacks; {did_you_mean(value, config.values)}"
            )
        if value is None and squeezed(surface) not in words:
            return f"marks {surface!r}, which {entity} lacks; {did_you_mean(surface, words.values())}"
    if config.kind == "regex" and config.pattern is not None and not re.search(config.pattern, value or surface):
        return f"marks {surface!r}, which the pattern of {entity} does not match; mend one of the two"
    return ""


def _check_learned(source: Source) -> None:
    marked = {mark.entity for one in source.items["intents"].values() for ex in one.examples for mark in ex.marks}
    for name, entity in source.items["entities"].items():
        if entity.kind == "learned" and name not in marked:
            what = f"is learned from examples, and none marks it; write [words]({name}) in some"
            source.note("entities", name, (), what, "kind")


# --- FAQ, responses, tests --------------------------------------------------------------------------------------------


def _check_faq(source: Source, name: str, faq: FaqConfig) -> None:
    check_languages(source, "faq", name, "answer", faq.answer)
    check_languages(source, "faq", name, "title", faq.title, required=False)
    _check_buttons(source, "faq", name, faq.buttons)
    assert source.settings is not None
    for language in faq.asked:
        if language not in source.settings.languages:
            what = f"{language} is not among `languages` in bot.yaml; add it there"
            source.note("faq", name, ("questions", language), what)
    for language, answer in faq.answer.items():
        for inside in placeholders(answer):
            what = f"holds {{{inside}}}, and an answer knows no slots; write the text itself"
            source.note("faq", name, ("answer", language), what)


def _check_response(source: Source, name: str, response: ResponseConfig) -> None:
    if response.texts or name not in provided_responses():
        check_languages(source, "responses", name, "", response.texts)
    _check_buttons(source, "responses", name, response.buttons)
    for channel, texts in response.channels.items():
        if channel not in CHANNELS:
            what = f"{channel} is no channel; {did_you_mean(channel, CHANNELS)}"
            source.note("responses", name, ("channels", channel), what)
        for language in texts:
            if source.settings is not None and language not in source.settings.languages:
                what = f"{language} is not among `languages` in bot.yaml; add it there"
                source.note("responses", name, ("channels", channel, language), what)
    slots = {slot for flow in source.items["flows"].values() for slot in flow.all_slots()}
    known = slots | provided_responses().get(name, frozenset())
    for path, text in texts_of(response):
        for inside in placeholders(text):
            if not re.fullmatch(NAME, inside):
                what = f"holds {{{inside}}}; only {{slot}} may stand in braces, and nothing is evaluated"
                source.note("responses", name, path, what)
            elif inside not in known and source.flows_are_whole():
                what = f"holds {{{inside}}}, and no slot is called so; {did_you_mean(inside, known)}"
                source.note("responses", name, path, what)


def texts_of(response: ResponseConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every variant of a response, and where it stands in its file."""
    for language, variants in response.texts.items():
        yield from (((language, index), text) for index, text in enumerate(variants))
    for channel, texts in response.channels.items():
        for language, variants in texts.items():
            yield from ((("channels", channel, language, index), text) for index, text in enumerate(variants))


def _check_test(source: Source, name: str, test: TestConfig) -> None:
    assert source.settings is not None
    if test.language is not None and test.language not in source.settings.languages:
        hint = did_you_mean(test.language, source.settings.languages)
        source.note("tests", name, ("language",), f"{test.language} is not among `languages` in bot.yaml; {hint}")
    intents = {*source.written["intents"], *RESERVED_INTENTS, OOS}
    slots = {slot for flow in source.items["flows"].values() for slot in flow.all_slots()}
    for index, step in enumerate(test.steps):
        path = ("steps", index, "expect")
        expect = step.expect
        named: list[tuple[str, str | None, set[str]]] = [
            ("intent", expect.intent, intents),
            ("flow", expect.flow or None, set(source.written["flows"])),
            ("faq", expect.faq, set(source.written["faq"])),
            ("says", expect.says, known_responses(source)),
        ]
        for field, value, known in named:
            if value is not None and value not in known:
                what = f"{value} is not there; {did_you_mean(str(value), known)}"
                source.note("tests", name, (*path, field), what)
        for slot in expect.slot if source.flows_are_whole() else ():
            if slot not in slots:
                source.note("tests", name, (*path, "slot", slot), f"no flow has the slot; {did_you_mean(slot, slots)}")
