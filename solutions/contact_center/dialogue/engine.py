"""The engine: a state, what was understood and a message in; the turn's events out.

It keeps nothing between turns and draws no random numbers; all it learns from outside (the clock, the result of an
action, the length of the queue) goes into an event. Two servers that decide the same message from the same state choose
the same words and give an action the same idempotency key.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from solutions.contact_center.dialogue import flows, forms, patience, wishes
from solutions.contact_center.dialogue.events import Event, Message
from solutions.contact_center.dialogue.ladder import in_scope, options_of
from solutions.contact_center.dialogue.patterns import exactly, squeezed
from solutions.contact_center.dialogue.slots import MAX_TEXT
from solutions.contact_center.dialogue.state import State
from solutions.contact_center.dialogue.turn import Kit, Turn
from solutions.contact_center.masking import mask

if TYPE_CHECKING:
    from solutions.contact_center.understanding import Understanding

_CONTROL_SHARE = 0.1
"""Share of characters that no text has, from which a message is not read as one."""
_KEPT = 4
"""Intents and questions of each message that its event keeps."""


def cleaned(text: str) -> str:
    """A message as the bot reads it: NFC, no lone surrogates, no control characters but line ends and tabs."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = "".join(one for one in text if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Co", "Cn", "Cs"))
    return unicodedata.normalize("NFC", text)


def trouble(text: str) -> str | None:
    """Why a message cannot be understood: the response to it; None where it can be tried."""
    sample = text[: 4 * MAX_TEXT]
    odd = sum(one == "\ufffd" or unicodedata.category(one) in ("Cc", "Co", "Cn", "Cs") for one in sample)
    odd -= sum(one in "\n\t\r" for one in sample)
    if odd > _CONTROL_SHARE * len(sample):
        return "unreadable"
    if not squeezed(sample) and not re.search(r"\S", cleaned(sample)):
        return "empty_input"
    return "too_long" if len(text) > MAX_TEXT else None


class Engine:
    """Decides turns for one bot. Thread-safe."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def wants_understanding(self, state: State, message: Message) -> bool:
        """Whether `turn` will look at what was understood: not while a person speaks, nor for what is no text."""
        return state.mode == "bot" and trouble(message.text) is None

    def language(self, state: State, message: Message) -> str:
        """The language of the turn: the message's where the bot speaks it, else the conversation's."""
        spoken = self._kit.bot.settings.languages
        for wanted in (message.language, state.language):
            if wanted in spoken:
                return str(wanted)
        return spoken[0]

    def turn(
        self,
        state: State,
        understanding: Understanding | None,
        message: Message,
        *,
        conversation: str = "",
        customer: str = "",
    ) -> list[Event]:
        """The events of one turn; the last is `turn_ended`.

        Args:
            understanding: None where `wants_understanding` says so.
            conversation, customer: ids; by default those of the state.

        Raises:
            ValueError: the message's time has no zone.
        """
        turn = Turn(self._kit, state, message)
        before = state.user_time
        turn.emit(
            "user",
            conversation=conversation or state.conversation,
            customer=customer or state.customer,
            id=message.id,
            text=mask(cleaned(message.text[:MAX_TEXT])).text,
            length=len(message.text),
            channel=message.channel,
            language=self.language(state, message),
        )
        if state.mode == "waiting":
            self._while_waiting(turn)
        elif state.mode == "bot":
            self._decide(turn, understanding, before)
        self._end(turn)
        return turn.finish()

    def opening(self, state: State, message: Message, *, conversation: str, customer: str = "") -> list[Event]:
        """The events of a conversation's opening: the greeting of its channel, before the user has said anything."""
        turn = Turn(self._kit, state, message)
        turn.emit(
            "user",
            conversation=conversation,
            customer=customer,
            id=message.id,
            text="",
            length=0,
            channel=message.channel,
            language=self.language(state, message),
        )
        channel = self._kit.bot.settings.channels.get(message.channel)  # type: ignore[call-overload]
        greeting = channel.greeting if channel is not None else None
        if turn.state.mode == "bot":
            turn.say(greeting or "intent_greet")
        self._end(turn)
        return turn.finish()

    def _decide(self, turn: Turn, understanding: Understanding | None, before: str) -> None:
        problem = trouble(turn.message.text)
        if problem is not None or understanding is None:
            self._not_text(turn, problem or "unreadable")
            return
        turn.understood = understanding
        turn.emit("understood", **_summary(turn, understanding))
        pending = turn.state.pending.get("kind")
        if patience.has_waited_too_long(turn, before):
            self._after_a_while(turn)
        elif pending == "resume":
            self._go_on_or_not(turn)
        elif pending == "clarify":
            wishes.clarified(turn)
        elif turn.state.frame is not None:
            forms.answer(turn)
        else:
            wishes.fresh(turn)

    def _not_text(self, turn: Turn, problem: str) -> None:
        """Empty, binary or endless: say so; like anything else that is not understood it may not go on for ever."""
        turn.take("ask_again")
        turn.emit("decided", rung="ask_again", kind="", name="", confidence=0.0, reason=problem)
        asked = turn.state.clarifications
        if asked >= turn.bot.settings.policies.max_clarifications + 1:
            flows.stuck(turn, "not_understood")
            return
        pending = dict(turn.state.pending)
        turn.emit("clarified", rung="ask_again", options=[])
        turn.say(problem)
        if turn.state.frame is not None and pending.get("kind") not in ("clarify", "resume", "change"):
            flows.ask_once_more(turn)

    def _after_a_while(self, turn: Turn) -> None:
        """A new wish begins anew; anything else is asked about before the flow goes on."""
        assert turn.understood is not None
        options = options_of(turn.understood, turn.bot)
        running = turn.frame.flow
        flow = turn.bot.flow_of(options[0].name) if options and options[0].kind == "intent" else None
        is_wish = bool(options) and options[0].confidence >= turn.kit.limits.answer
        is_wish = is_wish and in_scope(turn.understood, turn.kit.limits) and patience.reserved(turn) is None
        if is_wish and (flow is None or flow.flow != running):
            title = turn.title(running)
            patience.end_all(turn, "timed_out")
            turn.say("timed_out", title=title)
            wishes.fresh(turn)
        else:
            patience.ask_whether_to_go_on(turn)

    def _go_on_or_not(self, turn: Turn) -> None:
        word = patience.reserved(turn)
        if word == "affirm":
            turn.take("answer")
            flows.ask_once_more(turn)
        elif word in ("deny", "cancel"):
            turn.take("answer")
            title = turn.title(turn.frame.flow)
            patience.end_all(turn, "timed_out")
            turn.say("cancelled", title=title)
        else:
            forms.answer(turn)

    def _while_waiting(self, turn: Turn) -> None:
        """The customer writes while waiting for a person: it is passed on, and they are told where they stand."""
        if exactly(turn.message.text, turn.language) in ("cancel", "back"):
            turn.emit("returned", agent="", resume=True)
            turn.say("hand_over_left")
            if turn.state.frame is not None:
                flows.ask_once_more(turn)
            return
        ahead = turn.kit.ahead(turn.state.conversation)
        turn.say("hand_over_noted", position=str(ahead + 1))

    def _end(self, turn: Turn) -> None:
        state = turn.state
        turn.emit(
            "turn_ended",
            turn=state.turn,
            rung=turn.rung,
            ended=turn.ended,
            handed_over=state.mode != "bot",
            flow=state.frame.flow if state.frame is not None else "",
            intent=turn.intent,
        )


def _summary(turn: Turn, understood: Understanding) -> dict[str, Any]:
    """What was understood, as an event keeps it: personal values masked."""

    def one(part: Understanding) -> dict[str, Any]:
        return {
            "intents": [[score.name, round(score.confidence, 6)] for score in part.intents[:_KEPT]],
            "scope": round(part.scope, 6),
            "scope_score": round(part.scope_score, 6),
            "faqs": [[hit.name, round(hit.similarity, 6), round(hit.confidence, 6)] for hit in part.faqs[:_KEPT]],
            "entities": [_entity(turn, found) for found in part.entities],
        }

    limits = turn.kit.limits
    thresholds: Mapping[str, float] = {"answer": limits.answer, "confirm": limits.confirm, "scope": limits.scope}
    return {**one(understood), "parts": [one(part) for part in understood.parts], "thresholds": dict(thresholds)}


def _entity(turn: Turn, found: Any) -> dict[str, Any]:
    answers = turn.kit.answers
    candidate = answers.candidates([found], turn.message.text)[0]
    shown = answers.shown(candidate, personal=answers.is_personal(candidate))
    return {"kind": found.kind, "start": found.start, "end": found.end, "text": shown, "confidence": found.confidence}
