"""What could be better in a bot that works: said by `haechi bot check`, and never in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.yaml_files import Mistakes
from solutions.contact_center.bot_models import OOS, RESERVED_INTENTS
from solutions.contact_center.flow_models import ActStep, BranchStep, CollectStep, ConfirmStep, GotoStep, SayStep
from solutions.contact_center.references import provided_responses, squeezed

if TYPE_CHECKING:
    from solutions.contact_center.config import Bot
    from solutions.contact_center.folder import Source

FEW_EXAMPLES = 5
FEW_QUESTIONS = 3


def advise(source: Source, bot: Bot) -> Mistakes:
    """Notes on the folder, each with its file and line."""
    notes = Mistakes()
    _on_intents(source, notes)
    _on_same_words(source, notes)
    _on_faq(source, notes)
    _on_flows(source, bot, notes)
    _on_unused(source, bot, notes)
    return notes


def _note(
    source: Source, notes: Mistakes, section: str, name: str, what: str, path: tuple[str | int, ...] = ()
) -> None:
    document, index = source.written[section][name]
    notes.add(document.file, document.line((index, *path)), name, what)


def _on_intents(source: Source, notes: Mistakes) -> None:
    assert source.settings is not None
    for name, intent in source.items["intents"].items():
        if name in RESERVED_INTENTS:
            continue
        for language in source.settings.languages:
            count = len(intent.by_language.get(language, ()))
            if count < FEW_EXAMPLES:
                what = f"has {count} examples in {language}; {FEW_EXAMPLES} are the least that serve, 15 are good"
                _note(source, notes, "intents", name, what)
    if source.items["intents"] and OOS not in source.items["intents"]:
        what = f"no intent {OOS}: sentences that are none of the bot's business make it surer of what it does not know"
        notes.add(str(source.folder), 0, "intents", what)


def _on_same_words(source: Source, notes: Mistakes) -> None:
    """The same utterance under two names teaches nothing but confusion."""
    seen: dict[str, tuple[str, str]] = {}
    for section, field in (("intents", "examples"), ("faq", "questions")):
        for name, item in source.items[section].items():
            for utterance in getattr(item, field):
                text = utterance if isinstance(utterance, str) else utterance.text
                first = seen.setdefault(squeezed(text), (section, name))
                if first[1] != name:
                    what = f"{text!r} is in {first[1]} ({first[0]}) too; leave it with one of the two"
                    _note(source, notes, section, name, what, (field,))


def _on_faq(source: Source, notes: Mistakes) -> None:
    for name, faq in source.items["faq"].items():
        for language, questions in faq.asked.items():
            if len(questions) < FEW_QUESTIONS:
                what = f"is asked in {len(questions)} ways in {language}; {FEW_QUESTIONS} or more find it better"
                _note(source, notes, "faq", name, what)


def _on_flows(source: Source, bot: Bot, notes: Mistakes) -> None:
    started = {flow.flow for intent in bot.intents for flow in (bot.flow_of(intent),) if flow is not None}
    tested = {step.expect.flow for test in bot.tests.values() for step in test.steps}
    for name, flow in bot.flows.items():
        if name not in started:
            _note(
                source, notes, "flows", name, "is started by no intent; write one of the same name, or one with `flow`"
            )
        elif name not in tested:
            _note(source, notes, "flows", name, "has no conversation test; write one in tests/ that expects this flow")
        used = {step.goto for step in flow.steps if isinstance(step, GotoStep)}
        used |= {case.goto for step in flow.steps if isinstance(step, BranchStep) for case in step.branch}
        used |= {step.otherwise for step in flow.steps if isinstance(step, ActStep) and step.otherwise}
        for label, index in flow.labels().items():
            if label not in used:
                what = f"leads to the label {label} from nowhere; remove it, or use it"
                _note(source, notes, "flows", name, what, ("steps", index))


def _on_unused(source: Source, bot: Bot, notes: Mistakes) -> None:
    used: set[str | None] = {f"intent_{name}" for name in (*bot.intents, *RESERVED_INTENTS)}
    used |= {intent.response for intent in bot.intents.values()}
    used |= {channel.greeting for channel in bot.settings.channels.values()}
    acted: set[str] = set()
    for flow in bot.flows.values():
        for step in flow.steps:
            if isinstance(step, CollectStep):
                used |= {step.question, step.help}
            elif isinstance(step, SayStep):
                used.add(step.say)
            elif isinstance(step, ConfirmStep):
                used.add(step.confirm)
            elif isinstance(step, ActStep):
                used |= {step.failed, "action_failed"}
                acted.add(step.act)
    for name in bot.responses:
        if name not in used and name not in provided_responses():
            _note(source, notes, "responses", name, "is said nowhere; remove it, or name it in a flow or an intent")
    for name in bot.actions:
        if name not in acted:
            _note(source, notes, "actions", name, "is run by no flow; remove it, or add a step `act`")
    for name, action in bot.actions.items():
        if action.http is not None and action.http.url.startswith("http://") and not _is_local(action.http.url):
            _note(source, notes, "actions", name, "is called without encryption; write https://")


def _is_local(url: str) -> bool:
    return url.removeprefix("http://").split("/")[0].split(":")[0] in ("localhost", "127.0.0.1")
