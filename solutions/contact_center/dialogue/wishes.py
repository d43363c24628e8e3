"""What the customer wants: the ladder at work outside of flows, digressions inside of one, and clarifications."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from solutions.contact_center.config import RESERVED_INTENTS, in_language
from solutions.contact_center.dialogue import flows, patience, patterns
from solutions.contact_center.dialogue.events import Button
from solutions.contact_center.dialogue.handing import hand_over, topics
from solutions.contact_center.dialogue.ladder import SAME_QUESTION, Decision, Option, decide, in_scope, options_of
from solutions.contact_center.dialogue.patterns import squeezed
from solutions.contact_center.dialogue.slots import Candidate
from solutions.contact_center.dialogue.turn import Turn
from solutions.contact_center.dialogue.wording import button_of, fill

if TYPE_CHECKING:
    from solutions.contact_center.understanding import Understanding

_POLITE = ("greet", "thank", "affirm", "deny")
"""What may stand beside a wish without being one."""
_FIRST = re.compile(
    r"^(?:1|1\s*번|일\s*번|첫\s*번?째.*|첫째.*|앞의?\s*거.*|전자.*|the\s+first.*|first.*|one|number\s+one|option\s+(?:1|one))[\s.!요]*$"
)
_SECOND = re.compile(
    r"^(?:2|2\s*번|이\s*번|두\s*번?째.*|둘째.*|뒤의?\s*거.*|후자.*|the\s+second.*|second.*|two|number\s+two|option\s+(?:2|two)|the\s+latter)[\s.!요]*$"
)


def fresh(turn: Turn) -> None:
    """A message while no flow runs."""
    word = patience.reserved(turn)
    understood = turn.understood
    assert understood is not None
    parts = [part for part in understood.parts if not _only_polite(part, turn)]
    if len(understood.parts) > 1 and parts:
        _several(turn, parts)
        return
    if word is not None and patience.outside_flow(turn, word):
        return
    decision = decide(
        understood, turn.bot, turn.kit.limits, turn.state.clarifications, turn.kit.policy, turn.seen("rung")
    )
    _follow(turn, decision, understood)


def _only_polite(part: Understanding, turn: Turn) -> bool:
    best = part.intents[0] if part.intents else None
    return best is not None and best.name in _POLITE and best.confidence >= turn.kit.limits.confirm


def _several(turn: Turn, parts: Sequence[Understanding]) -> None:
    """Several wishes in one message: answers at once and in order, then the flows one after another."""
    decisions = [(decide(part, turn.bot, turn.kit.limits, 0, None), part) for part in parts]
    sure = [(decision, part) for decision, part in decisions if decision.rung == "answer"]
    wishes: list[tuple[Decision, Understanding]] = []
    for decision, part in sure:
        if _starts_flow(turn, decision.options[0]):
            wishes.append((decision, part))
        else:
            _follow(turn, decision, part)
    for decision, part in wishes[1:]:
        entities = flows.packed(turn, turn.kit.answers.candidates(part.entities, part.text))
        turn.emit("queued", intent=decision.options[0].name, entities=entities)
    if wishes:
        _follow(turn, *wishes[0])
    elif not sure:  # none is clear: the first that can be asked about, else the whole
        unsure = next(((one, part) for one, part in decisions if one.rung in ("confirm", "choose")), None)
        limits, asked = turn.kit.limits, turn.state.clarifications
        assert turn.understood is not None
        whole = (decide(turn.understood, turn.bot, limits, asked, turn.kit.policy, turn.seen("rung")), turn.understood)
        _follow(
            turn, *(unsure if unsure is not None and asked < turn.bot.settings.policies.max_clarifications else whole)
        )


def _starts_flow(turn: Turn, option: Option) -> bool:
    return option.kind == "intent" and option.name not in RESERVED_INTENTS and turn.bot.flow_of(option.name) is not None


def _follow(turn: Turn, decision: Decision, understood: Understanding) -> None:
    """Do what the ladder decided."""
    turn.emit("decided", **decision.as_dict())
    turn.take(decision.rung)
    if decision.rung == "answer":
        entities = turn.kit.answers.candidates(understood.entities, understood.text)
        give(turn, decision.options[0], entities)
    elif decision.rung == "hand_over":
        _refer(turn)
    elif decision.rung == "ask_again":
        turn.emit("clarified", rung="ask_again", options=[])
        if decision.reason == "out_of_scope":
            turn.say("out_of_scope", topics=topics(turn))
        else:
            turn.say("ask_again" if turn.state.clarifications == 1 else "ask_again_more", topics=topics(turn))
    else:
        _ask_which(turn, decision, understood)


def _refer(turn: Turn) -> None:
    hand_over(turn, "not_understood")


def _ask_which(turn: Turn, decision: Decision, understood: Understanding) -> None:
    entities = flows.packed(turn, turn.kit.answers.candidates(understood.entities, understood.text))
    wanted = decision.options[: 2 if decision.rung == "choose" else 1]
    options = [
        {"kind": option.kind, "name": option.name, "title": title_of(turn, option), "entities": entities}
        for option in wanted
    ]
    turn.emit("clarified", rung=decision.rung, options=options)
    titles = [str(option["title"]) for option in options]
    if decision.rung == "confirm":
        turn.say("did_you_mean", title=titles[0])
        return
    neither = turn.kit.wording.say("choose_neither", turn.language, "", {}, lambda *_: 0).text
    turn.say("choose", first=titles[0], second=titles[1], buttons=titled([*titles, neither]))


def titled(titles: Sequence[str]) -> tuple[Button, ...]:
    """Buttons that say their titles."""
    return tuple(Button(title, title) for title in titles)


def title_of(turn: Turn, option: Option) -> str:
    """How an option is named when the bot asks "did you mean"."""
    if option.kind == "faq":
        faq = turn.bot.faqs[option.name]
        questions = in_language(faq.asked, turn.language) or faq.questions
        return in_language(faq.title, turn.language) or questions[0]
    if option.name in RESERVED_INTENTS:
        return patterns.load(turn.language).titles[option.name][0]
    return turn.bot.title_of(option.name, turn.language)


def give(turn: Turn, option: Option, entities: Sequence[Candidate]) -> None:
    """What the customer asked for: a flow, an answer, or a response."""
    turn.intent = option.name
    if option.kind == "faq":
        faq = turn.bot.faqs[option.name]
        text = in_language(faq.answer, turn.language) or ""
        made = (button_of(button, turn.language, {}) for button in faq.buttons)
        answer = fill(text, {}, turn.language)
        turn.say_text(f"faq:{option.name}", answer, tuple(button for button in made if button is not None))
        return
    if option.name in RESERVED_INTENTS:
        patience.outside_flow(turn, option.name)
        return
    flow = turn.bot.flow_of(option.name)
    if flow is not None:
        flows.start(turn, flow.flow, entities)
        return
    config = turn.bot.intents.get(option.name)
    response = (config.response if config else None) or f"intent_{option.name}"
    if turn.kit.wording.has(response):
        turn.say(response)
    else:
        turn.say("no_answer", title=title_of(turn, option))


# --- inside of a flow -------------------------------------------------------------------------------------------------


def is_confident_other(turn: Turn) -> bool:
    """Whether the message is surely about something else than the running flow."""
    return _other(turn, turn.kit.limits.answer) is not None


def _other(turn: Turn, sure: float) -> Option | None:
    understood = turn.understood
    if understood is None or not in_scope(understood, turn.kit.limits):
        return None
    for option in options_of(understood, turn.bot)[:1]:
        if option.name in RESERVED_INTENTS or option.confidence < sure:
            return None
        flow = turn.bot.flow_of(option.name) if option.kind == "intent" else None
        running = {frame.flow for frame in turn.state.stack}
        return None if flow is not None and flow.flow in running else option
    return None


def is_question_itself(turn: Turn) -> bool:
    """Whether the message is nearly word for word a stored question: then it is no free text for a slot."""
    understood = turn.understood
    return understood is not None and bool(understood.faqs) and understood.faqs[0].similarity >= SAME_QUESTION


def digress(turn: Turn) -> bool:
    """Take up a confident other wish while a flow waits, and come back to the flow; False where there is none."""
    option = _other(turn, min(turn.kit.limits.answer, patience.SURE))
    understood = turn.understood
    if option is None or understood is None:
        return False
    turn.emit("decided", **Decision("answer", (option,), "digression", understood.scope).as_dict())
    turn.take("answer")
    if _starts_flow(turn, option) and len(turn.state.stack) >= flows.MAX_STACK:
        flows.ask_once_more(turn)
        return True
    depth = len(turn.state.stack)
    give(turn, option, turn.kit.answers.candidates(understood.entities, understood.text))
    started = any(event.kind == "flow_started" for event in turn.events)
    if not started and turn.state.mode == "bot" and len(turn.state.stack) == depth:
        flows.ask_once_more(turn)
    return True


# --- after a clarification --------------------------------------------------------------------------------------------


def clarified(turn: Turn) -> None:
    """The message after "did you mean": yes, no, one of two, or something else altogether."""
    pending = turn.state.pending
    options: Sequence[Mapping[str, Any]] = pending["options"]
    word = patience.reserved(turn)
    chosen = _chosen(turn, options, word)
    if chosen is not None:
        turn.emit(
            "decided", rung="answer", kind=chosen["kind"], name=chosen["name"], confidence=1.0, reason="clarified"
        )
        turn.take("answer")
        give(turn, Option(chosen["kind"], chosen["name"], 1.0), flows.unpacked(turn, chosen["entities"]))
    elif word == "deny" or squeezed(turn.message.text) == squeezed(_neither(turn)):
        _neither_of_them(turn)
    elif word is not None or not _said_again(turn, options):
        fresh(turn)


def _said_again(turn: Turn, options: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the message means one of the options in other words, though not surely: twice unsure is sure enough."""
    understood = turn.understood
    if understood is None or understood.parts or not in_scope(understood, turn.kit.limits):
        return False
    best = options_of(understood, turn.bot)[:1]
    meant = next((one for one in options if best and (one["kind"], one["name"]) == (best[0].kind, best[0].name)), None)
    if meant is None or best[0].confidence < turn.kit.limits.confirm:
        return False
    turn.emit("decided", **Decision("answer", best, "said_again", understood.scope).as_dict())
    turn.take("answer")
    new = turn.kit.answers.candidates(understood.entities, understood.text)
    kinds = {one.kind for one in new}
    old = [one for one in flows.unpacked(turn, meant["entities"]) if one.kind not in kinds]
    give(turn, best[0], [*old, *new])
    return True


def _neither(turn: Turn) -> str:
    return turn.kit.wording.say("choose_neither", turn.language, "", {}, lambda *_: 0).text


def _chosen(turn: Turn, options: Sequence[Mapping[str, Any]], word: str | None) -> Mapping[str, Any] | None:
    text = turn.message.text.strip().lower()
    said = squeezed(text)
    for option in options:
        title = squeezed(option["title"])
        if said and (said == title or (len(said) >= 2 and said in title and word is None and len(options) > 1)):
            others = [other for other in options if other is not option and said in squeezed(other["title"])]
            if not others:
                return option
    if len(options) == 1:
        return options[0] if word == "affirm" else None
    if _FIRST.match(text):
        return options[0]
    return options[1] if _SECOND.match(text) else None


def _neither_of_them(turn: Turn) -> None:
    turn.emit("decided", rung="ask_again", kind="pattern", name="deny", confidence=1.0, reason="neither")
    turn.take("ask_again")
    if turn.state.clarifications >= turn.bot.settings.policies.max_clarifications:
        _refer(turn)
        return
    turn.emit("clarified", rung="ask_again", options=[])
    turn.say("neither")
