"""What happens in a conversation, as events, and the messages and replies at its border.

A conversation is the list of its events and nothing else. Everything that was chosen, measured or answered from outside
(the variant of a response, the result of an action, the time) is in an event, so that replaying them gives the same
state byte for byte (`state.replay`). User text is masked before it gets here; a slot that an action needs in the clear
is kept as `sealed` (see `dialogue.sealing`) beside what may be `shown`.

Kinds, in the order in which a turn has them; what each does to the state is in `dialogue.state`:

    user             the message: id, masked text, channel, language
    understood       intents, scope, FAQ hits and entities with their confidences, masked
    decided          the rung of the ladder for one part of the message, its target and why
    clarified        the bot asks whether it understood: one option (confirm), two (choose) or none (ask_again)
    flow_started, moved, slot_set, slot_refused, slot_asked, confirm_asked, change_asked, slot_cleared, flow_ended
    queued           a further wish of the same message, for when the running flow has ended
    timed_out        the running flow waited too long: the bot asks whether to go on
    action_done      what an action answered, or how it failed
    said             what the bot said: the response's name, its variant, the text as sent, buttons
    insulted         the user was rude once more
    hand_over        a person is asked for: reason, summary, queue
    agent_joined, agent_said, returned   what the person did
    feedback         what somebody thinks of the answer of one turn: good or not
    reset            the conversation begins anew (the events before it stay)
    turn_ended       the turn is complete: rung, whether the conversation ended or was handed over
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
"""Of the events' data; a reader of a newer one refuses, one of an older one converts in `Event.from_dict`."""

KINDS = frozenset(
    {
        "user",
        "understood",
        "decided",
        "clarified",
        "flow_started",
        "queued",
        "moved",
        "slot_set",
        "slot_cleared",
        "slot_refused",
        "slot_asked",
        "confirm_asked",
        "change_asked",
        "flow_ended",
        "timed_out",
        "action_done",
        "said",
        "insulted",
        "hand_over",
        "agent_joined",
        "agent_said",
        "returned",
        "feedback",
        "reset",
        "turn_ended",
    }
)

RUNGS = ("answer", "confirm", "choose", "ask_again", "hand_over")
"""Of the ladder, surest first."""


@dataclass(frozen=True)
class Message:
    """What a user sent."""

    text: str
    id: str
    """The client's own, unique within the conversation: the same id again is the same message."""
    channel: str = "rest"
    language: str | None = None
    """`ko` or `en`; None: the conversation's, at first the bot's default."""
    time: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    """With a zone."""


@dataclass(frozen=True)
class Button:
    """A quick reply: `say` is sent as the user's message when it is pressed; or a link."""

    title: str
    say: str = ""
    url: str = ""

    def as_dict(self) -> dict[str, str]:
        """As JSON, without what is empty."""
        return {key: value for key, value in vars(self).items() if value}

    @staticmethod
    def from_dict(values: Mapping[str, str]) -> Button:
        """The reverse of `as_dict`."""
        return Button(values["title"], values.get("say", ""), values.get("url", ""))


@dataclass(frozen=True)
class Event:
    """One thing that happened. `data` is JSON; `time` ISO 8601 in UTC, from the message that caused it."""

    kind: str
    data: Mapping[str, Any]
    time: str
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"kind": self.kind, "data": dict(self.data), "time": self.time, "schema": self.schema}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Event:
        """The reverse of `as_dict`.

        Raises:
            ValueError: an event of a schema or a kind that this version does not know.
        """
        if values["schema"] > SCHEMA or values["kind"] not in KINDS:
            raise ValueError(f"an event {values['kind']!r} of schema {values['schema']} is newer than this Haechi")
        return Event(values["kind"], values["data"], values["time"], values["schema"])


@dataclass(frozen=True)
class Reply:
    """What the bot answers to one message."""

    texts: list[str]
    buttons: list[Button]
    ended: bool
    """The conversation is over (goodbye, `end`); a further message begins anew."""
    handed_over: bool
    """A person was asked for, or is already there; the bot stays silent until they return the conversation."""
    rung: str
    """The rung of the ladder; empty where nothing had to be understood (greeting, agent present)."""
    events: list[Event]
    turn: int = 0
    duplicate: bool = False
    """The message had been answered before; this is that answer."""

    @staticmethod
    def of(events: Sequence[Event], *, duplicate: bool = False) -> Reply:
        """The reply that a turn's events hold."""
        said = [event.data for event in events if event.kind == "said"]
        end: Mapping[str, Any] = next((event.data for event in reversed(events) if event.kind == "turn_ended"), {})
        return Reply(
            texts=[data["text"] for data in said if data["text"]],
            buttons=_last_buttons(said),
            ended=bool(end.get("ended")),
            handed_over=bool(end.get("handed_over")),
            rung=str(end.get("rung", "")),
            events=list(events),
            turn=int(end.get("turn", 0)),
            duplicate=duplicate,
        )


def _last_buttons(said: Sequence[Mapping[str, Any]]) -> list[Button]:
    """Of the last thing said that has any: earlier ones are answered by what follows them."""
    for data in reversed(said):
        if data.get("buttons"):
            return [Button.from_dict(button) for button in data["buttons"]]
    return []


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, UTF-8 as it is, finite numbers only; equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def iso(time: dt.datetime) -> str:
    """A time as events keep it: UTC, to the microsecond.

    Raises:
        ValueError: it has no zone.
    """
    if time.tzinfo is None:
        raise ValueError("a message's time has no zone")
    return time.astimezone(dt.UTC).isoformat(timespec="microseconds")


def turns(events: Iterable[Event]) -> list[list[Event]]:
    """The events turn by turn: each list begins with `user`; what an agent does between two belongs to the earlier."""
    parts: list[list[Event]] = []
    for event in events:
        if event.kind == "user" or not parts:
            parts.append([])
        parts[-1].append(event)
    return parts
