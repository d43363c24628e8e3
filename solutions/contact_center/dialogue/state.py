"""The state of a conversation: what its events add up to. `apply` is pure, and `to_bytes` canonical.

The state never holds a message; it holds where the flows stand. A *frame* is one running flow: its slots, the step it
stands at and the slot it asked for. Frames are stacked: a digression is a frame above the one it interrupted, and when
it ends the one below goes on. `pending` is what the bot waits for:

    {}                                    nothing: the next message is a new wish
    {"kind": "slot", "slot": S}           an answer to a collect step of the top frame
    {"kind": "confirm"}                   yes, no or a correction at a confirm step of the top frame
    {"kind": "change"}                    which slot to change, after a no at a confirm step
    {"kind": "clarify", "rung": "confirm" | "choose", "options": [...]}    whether the bot understood
    {"kind": "resume"}                    whether to go on with a flow that waited too long

`mode` says who speaks: `bot`, `waiting` (for a person), `agent`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from solutions.contact_center.dialogue.events import SCHEMA, Event, to_json

Json = Mapping[str, Any]
_LAST = 4
"""How many things said are kept, for `repeat`: more than any turn of a sound flow says."""


@dataclass(frozen=True)
class Frame:
    """One running flow."""

    id: int
    flow: str
    step: int = 0
    """Index of the step to do next, or being done."""
    slots: Json = field(default_factory=dict)
    """Slot -> {"value" or "sealed", "shown", "source"}; a skipped optional slot has neither value nor sealed."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """Slot -> how often in vain."""
    started: str = ""
    done: Mapping[str, str] = field(default_factory=dict)
    """Step index -> fingerprint of what was said or done there. After a correction the flow walks again from the slot
    that changed; what would only be said or done the same again is passed over."""
    until: int = -1
    """The step up to which it walks again; -1: it does not."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class State:
    """Where a conversation stands after its events."""

    conversation: str = ""
    customer: str = ""
    channel: str = "rest"
    language: str = ""
    turn: int = 0
    """Messages of the user so far; the turn under way while one is decided."""
    seq: int = 0
    """Events so far."""
    time: str = ""
    """Of the newest event."""
    user_time: str = ""
    """Of the newest message; forms time out by it."""
    mode: str = "bot"
    stack: tuple[Frame, ...] = ()
    frames: int = 0
    """Flows started so far; gives each frame its id."""
    pending: Json = field(default_factory=dict)
    queue: tuple[Json, ...] = ()
    """Further wishes, in order: {"intent", "entities"}."""
    clarifications: int = 0
    """In a row, since the bot last understood."""
    insults: int = 0
    memory: Json = field(default_factory=dict)
    """Slots of flows that ended, newest value; never asked from, only shown and summarised."""
    hand_over: Json = field(default_factory=dict)
    """The request that no person has closed: reason, time, summary, whether it was made in office hours. Outside of
    them the bot goes on talking meanwhile."""
    agent: str = ""
    said: tuple[Json, ...] = ()
    """What the bot said in its last turn, for `repeat`."""
    ended: bool = False

    @property
    def frame(self) -> Frame | None:
        """The flow that is running."""
        return self.stack[-1] if self.stack else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON, with the schema."""
        values = dict(vars(self))
        values["stack"] = [frame.as_dict() for frame in self.stack]
        values["said"] = list(self.said)
        values["queue"] = list(self.queue)
        return {"schema": SCHEMA, **values}

    def to_bytes(self) -> bytes:
        """The same bytes for the same state, on every machine."""
        return to_json(self.as_dict()).encode("utf-8")


def apply(state: State, event: Event) -> State:
    """The state after one more event. Neither argument is changed.

    Raises:
        ValueError: the event does not fit the state (a slot set with no flow running): the stream is damaged.
    """
    state = dataclasses.replace(state, seq=state.seq + 1, time=event.time)
    reducer = _REDUCERS.get(event.kind)
    return state if reducer is None else reducer(state, event)


def replay(events: Iterable[Event], start: State | None = None) -> State:
    """The state that these events add up to."""
    state = start or State()
    for event in events:
        state = apply(state, event)
    return state


def _on_top(state: State, **changes: Any) -> State:
    if not state.stack:
        raise ValueError(f"event {state.seq} needs a running flow, and there is none")
    return dataclasses.replace(state, stack=(*state.stack[:-1], dataclasses.replace(state.stack[-1], **changes)))


def _user(state: State, event: Event) -> State:
    data = event.data
    return dataclasses.replace(
        state,
        conversation=data["conversation"],
        customer=data.get("customer") or state.customer,
        channel=data["channel"],
        language=data["language"],
        turn=state.turn + 1,
        user_time=event.time,
        said=state.said if state.mode == "bot" else (),
        ended=False,
    )


def _decided(state: State, event: Event) -> State:
    return dataclasses.replace(state, clarifications=0) if event.data["rung"] == "answer" else state


def _clarified(state: State, event: Event) -> State:
    data = event.data
    pending = state.pending if data["rung"] == "ask_again" else {"kind": "clarify", **data}
    return dataclasses.replace(state, clarifications=state.clarifications + 1, pending=pending)


def _flow_started(state: State, event: Event) -> State:
    frame = Frame(state.frames + 1, event.data["flow"], started=event.time)
    queue = state.queue[1:] if event.data.get("queued") else state.queue
    return dataclasses.replace(state, stack=(*state.stack, frame), frames=frame.id, pending={}, queue=queue)


def _moved(state: State, event: Event) -> State:
    data, frame = event.data, state.frame
    done: Mapping[str, str] = frame.done if frame else {}
    if "done" in data and frame is not None:
        done = {**done, str(frame.step): data["done"]}
    until = data.get("until", frame.until if frame else -1)
    until = -1 if data["step"] >= until else until
    return dataclasses.replace(_on_top(state, step=data["step"], done=done, until=until), pending={})


def _queued(state: State, event: Event) -> State:
    return dataclasses.replace(state, queue=(*state.queue, dict(event.data)))


def _slot_set(state: State, event: Event) -> State:
    data = event.data
    frame = state.frame
    known: Json = frame.slots if frame else {}
    attempts = {name: count for name, count in (frame.attempts if frame else {}).items() if name != data["slot"]}
    kept = {key: data[key] for key in ("value", "sealed", "shown", "source") if key in data}
    return _on_top(state, slots={**known, data["slot"]: kept}, attempts=attempts)


def _slot_cleared(state: State, event: Event) -> State:
    known: Json = state.frame.slots if state.frame else {}
    return _on_top(state, slots={name: slot for name, slot in known.items() if name != event.data["slot"]})


def _slot_refused(state: State, event: Event) -> State:
    name = event.data["slot"]
    counts: Mapping[str, int] = state.frame.attempts if state.frame else {}
    return _on_top(state, attempts={**counts, name: counts.get(name, 0) + 1})


def _slot_asked(state: State, event: Event) -> State:
    return dataclasses.replace(state, pending={"kind": "slot", "slot": event.data["slot"]})


def _flow_ended(state: State, _: Event) -> State:
    frame = state.frame
    if frame is None:
        raise ValueError(f"event {state.seq} ends a flow, and none is running")
    memory = {**state.memory, **{name: {**slot, "flow": frame.flow} for name, slot in frame.slots.items()}}
    return dataclasses.replace(state, stack=state.stack[:-1], memory=memory, pending={})


def _said(state: State, event: Event) -> State:
    kept = {key: event.data.get(key) for key in ("response", "text", "buttons")} | {"turn": state.turn}
    now = tuple(item for item in state.said if item["turn"] == state.turn)
    return dataclasses.replace(state, said=(*now, kept)[-_LAST:])


def _hand_over(state: State, event: Event) -> State:
    request = {key: event.data[key] for key in ("reason", "summary", "open")} | {"time": event.time}
    mode = "waiting" if event.data["open"] else state.mode
    return dataclasses.replace(state, mode=mode, hand_over=request, pending={}, clarifications=0, insults=0)


def _returned(state: State, event: Event) -> State:
    stack = state.stack if event.data.get("resume") else ()
    return dataclasses.replace(state, mode="bot", agent="", hand_over={}, stack=stack, pending={}, insults=0)


def _reset(state: State, _: Event) -> State:
    kept = ("conversation", "customer", "channel", "language", "turn", "seq", "time", "user_time", "frames")
    return State(**{name: getattr(state, name) for name in kept})


_REDUCERS: Mapping[str, Callable[[State, Event], State]] = {
    "user": _user,
    "decided": _decided,
    "clarified": _clarified,
    "flow_started": _flow_started,
    "moved": _moved,
    "slot_set": _slot_set,
    "slot_cleared": _slot_cleared,
    "slot_refused": _slot_refused,
    "slot_asked": _slot_asked,
    "confirm_asked": lambda state, _: dataclasses.replace(state, pending={"kind": "confirm"}),
    "change_asked": lambda state, _: dataclasses.replace(state, pending={"kind": "change"}),
    "queued": _queued,
    "flow_ended": _flow_ended,
    "timed_out": lambda state, _: dataclasses.replace(state, pending={"kind": "resume"}),
    "said": _said,
    "insulted": lambda state, _: dataclasses.replace(state, insults=state.insults + 1),
    "hand_over": _hand_over,
    "agent_joined": lambda state, event: dataclasses.replace(state, mode="agent", agent=event.data["agent"]),
    "returned": _returned,
    "reset": _reset,
    "turn_ended": lambda state, event: dataclasses.replace(state, ended=bool(event.data.get("ended"))),
}
"""`understood`, `action_done` and `agent_said` change nothing: what follows from them is in events of its own."""
