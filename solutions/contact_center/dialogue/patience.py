"""The patterns that every call centre needs, in a flow and outside of one.

Each reserved intent has one handler. Inside of a flow the open question is put again afterwards, and no attempt is
counted: whoever asks for a repetition has not given a wrong answer.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

from solutions.contact_center.config import RESERVED_INTENTS, CollectStep
from solutions.contact_center.dialogue import flows, patterns
from solutions.contact_center.dialogue.events import Button
from solutions.contact_center.dialogue.handing import hand_over, topics
from solutions.contact_center.dialogue.ladder import in_scope
from solutions.contact_center.dialogue.patterns import squeezed
from solutions.contact_center.dialogue.turn import Turn

INSULTS_BEFORE_HAND_OVER = 3
SURE = 0.8
"""Confidence that is enough inside of a flow and for its patterns, where the thresholds ask for more: what is mistaken
there costs a turn, not a wrong answer."""
_SHORT = 14
"""Letters of a message that may still be a bare yes or no: longer ones say something besides."""


def reserved(turn: Turn) -> str | None:
    """The reserved intent of the message: word for word an example, else where the understanding is confident."""
    text = turn.message.text
    exact = word_for_word(turn)
    if exact is not None:
        return exact
    understood = turn.understood
    if understood is None or not understood.intents:
        return None
    best = understood.intents[0]
    if best.name not in RESERVED_INTENTS or best.confidence < min(turn.kit.limits.answer, SURE):
        return None
    if best.name in ("affirm", "deny") and len(squeezed(text)) > _SHORT and turn.state.frame is None:
        return None
    # yes and no are short and say little: their scope score is not to be trusted
    return best.name if in_scope(understood, turn.kit.limits) or len(squeezed(text)) <= _SHORT else None


def word_for_word(turn: Turn) -> str | None:
    """The reserved intent of which the message is an example, of the patterns or of the bot's folder."""
    exact = patterns.exactly(turn.message.text, turn.language)
    if exact is not None:
        return exact
    said = squeezed(turn.message.text)
    for name in RESERVED_INTENTS:
        config = turn.bot.intents.get(name)
        if config is not None and any(squeezed(example.text) == said for example in config.examples):
            return name
    return None


# --- inside of a flow -------------------------------------------------------------------------------------------------


def inside_flow(turn: Turn, word: str) -> bool:
    """Do what the word asks for while a flow waits; False where it says nothing to the flow: a bare yes, `correct`."""
    handler = _INSIDE.get(word)
    if handler is None:
        return False
    turn.emit("decided", rung="answer", kind="pattern", name=word, confidence=1.0)
    turn.take("answer")
    handler(turn)
    return True


def cancel(turn: Turn) -> None:
    """End the running flow at the customer's wish."""
    turn.say("cancelled", title=turn.title(turn.frame.flow))
    flows.finish(turn, "cancelled")


def _goodbye(turn: Turn) -> None:
    while turn.state.frame is not None:
        turn.emit("flow_ended", flow=turn.frame.flow, reason="cancelled")
    turn.say("intent_goodbye")
    turn.ended = True


def _help(turn: Turn) -> None:
    step = turn.step
    if isinstance(step, CollectStep):
        turn.say(step.help or "slot_help", title=turn.kit.answers.title(step, turn.language))
        choices = turn.kit.answers.choices(step)
        if choices and step.help is None:
            turn.say_text("choices", ", ".join(choices))
    flows.ask_once_more(turn)


def _back(turn: Turn) -> None:
    """To the question before: the last filled slot that was asked for is emptied and asked for again."""
    steps = turn.flow.steps[: turn.frame.step]
    asked = [
        step
        for step in steps
        if isinstance(step, CollectStep)
        and turn.frame.slots.get(step.collect, {}).get("source") not in (None, "action")
    ]
    if not asked:
        turn.say("nothing_before")
        flows.ask_once_more(turn)
        return
    turn.emit("slot_cleared", flow=turn.frame.flow, slot=asked[-1].collect)
    flows.rewind(turn, asked[-1].collect)
    flows.run(turn)


def _skip(turn: Turn) -> None:
    turn.say("cannot_skip")
    flows.ask_once_more(turn)


def _then_ask(response: str) -> Callable[[Turn], None]:
    def handler(turn: Turn) -> None:
        turn.say(response)
        flows.ask_once_more(turn)

    return handler


def insult(turn: Turn) -> None:
    """Calm at first, a way out at the second, a person at the third."""
    turn.emit("insulted", count=turn.state.insults + 1)
    count = turn.state.insults
    if count >= INSULTS_BEFORE_HAND_OVER and turn.bot.settings.policies.hand_over:
        hand_over(turn, "insult")
        return
    turn.say("insult_1" if count == 1 else "insult_2")
    if turn.state.frame is not None:
        flows.ask_once_more(turn)


def repeat(turn: Turn) -> None:
    """Say again what was said last."""
    last = [said for said in turn.state.said if said["turn"] < turn.state.turn and said["text"]]
    if not last:
        turn.say("nothing_to_repeat")
    for said in last:
        buttons = tuple(Button.from_dict(button) for button in said["buttons"] or ())
        turn.say_text(said["response"], said["text"], buttons)


def agent(turn: Turn) -> None:
    """The customer asks for a person."""
    hand_over(turn, "asked")


_INSIDE: Mapping[str, Callable[[Turn], None]] = {
    "cancel": cancel,
    "repeat": repeat,
    "help": _help,
    "back": _back,
    "skip": _skip,
    "greet": _then_ask("intent_greet"),
    "thank": _then_ask("intent_thank"),
    "goodbye": _goodbye,
    "agent": agent,
    "insult": insult,
}


# --- outside of one ---------------------------------------------------------------------------------------------------


def outside_flow(turn: Turn, word: str) -> bool:
    """Do what the word asks for while nothing is under way; False where it means nothing here (a bare yes)."""
    handler = _OUTSIDE.get(word)
    if handler is None:
        return False
    turn.emit("decided", rung="answer", kind="pattern", name=word, confidence=1.0)
    turn.take("answer")
    handler(turn)
    return True


def _say(response: str) -> Callable[[Turn], None]:
    return lambda turn: turn.say(response)


def _help_outside(turn: Turn) -> None:
    turn.say("intent_help", topics=topics(turn))


_OUTSIDE: Mapping[str, Callable[[Turn], None]] = {
    "cancel": _say("nothing_to_cancel"),
    "correct": _say("nothing_to_correct"),
    "back": _say("nothing_to_correct"),
    "repeat": repeat,
    "help": _help_outside,
    "greet": _say("intent_greet"),
    "thank": _say("intent_thank"),
    "goodbye": _goodbye,
    "agent": agent,
    "insult": insult,
}


# --- time -------------------------------------------------------------------------------------------------------------


def has_waited_too_long(turn: Turn, before: str) -> bool:
    """Whether the running flow waited longer than the bot's patience. `before`: the time of the message before, ISO."""
    if turn.state.frame is None or not before or turn.state.pending.get("kind") == "resume":
        return False
    passed = turn.message.time - dt.datetime.fromisoformat(before)
    return passed > dt.timedelta(minutes=turn.bot.settings.policies.form_timeout_minutes)


def ask_whether_to_go_on(turn: Turn) -> None:
    """The customer comes back after a long while with something that is no new wish."""
    turn.emit("timed_out", flow=turn.frame.flow)
    turn.take("confirm")
    turn.say("still_there", title=turn.title(turn.frame.flow))


def end_all(turn: Turn, reason: str) -> None:
    """End every flow without going on with the one below."""
    while turn.state.frame is not None:
        turn.emit("flow_ended", flow=turn.frame.flow, reason=reason)
