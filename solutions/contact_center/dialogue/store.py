"""Conversations in the records' store: loaded by replaying their events, appended to if nobody else was first.

Loaded ones are kept in memory up to a limit, and only what is new is read; the events are the truth, and a server that
has missed some finds out when it reads, or at the latest when it appends.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.errors import HaechiError
from shared.streams import Clash, StreamEvent, Streams
from solutions.contact_center.dialogue.events import SCHEMA, Event, iso
from solutions.contact_center.dialogue.state import State, apply

SOLUTION = "contact_center"
MAX_TRIES = 20
"""Appends of one turn before giving up: each clash means that another message came in between."""
_KEPT = 4096
_LOCKS = 256


@dataclass(frozen=True)
class Loaded:
    """A conversation as far as it has been read."""

    state: State
    seq: int
    last: str = ""
    """Kind of the last event."""
    turns: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Message id -> first and last `seq` of its turn."""


_NOTHING = Loaded(State(), 0)


class Conversations:
    """Thread-safe; one per process."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self._kept: OrderedDict[str, Loaded] = OrderedDict()
        self._kept_lock = threading.Lock()
        self._locks = [threading.RLock() for _ in range(_LOCKS)]

    def lock(self, conversation: str) -> threading.RLock:
        """Held while one thread decides about a conversation: the others of this process would only clash with it."""
        return self._locks[hash(conversation) % _LOCKS]

    def load(self, conversation: str) -> Loaded:
        """The conversation with everything that any server has appended."""
        with self._kept_lock:
            known = self._kept.get(conversation) or _NOTHING
        # the last known event is read again: it is gone where the conversation was deleted meanwhile
        new = self.streams.read(SOLUTION, conversation, after=max(0, known.seq - 1))
        if known.seq:
            if new and (new[0].seq, new[0].kind, iso(new[0].time)) == (known.seq, known.last, known.state.time):
                new = new[1:]
            else:
                self.forget(conversation)
                known, new = _NOTHING, self.streams.read(SOLUTION, conversation)
        return self._grown(conversation, known, new) if new else known

    def forget(self, conversation: str) -> None:
        """Let go of what is in memory."""
        with self._kept_lock:
            self._kept.pop(conversation, None)

    def events(self, conversation: str, after: int = 0) -> list[StreamEvent]:
        """The events as they are stored; `event_of` gives the event in one."""
        return self.streams.read(SOLUTION, conversation, after)

    def turn(self, conversation: str, loaded: Loaded, message_id: str) -> list[Event] | None:
        """The events of the turn that answered this message; None where there is none."""
        found = loaded.turns.get(message_id)
        if found is None:
            return None
        first, last = found
        return [event_of(one) for one in self.events(conversation, first - 1) if one.seq <= last]

    def append(
        self, conversation: str, loaded: Loaded, events: Sequence[Event], key: str = "", owner: str = ""
    ) -> Loaded:
        """Add events to the end.

        Raises:
            Clash: another server was first; load again and decide again.
        """
        stored = [_stored(event) for event in events]
        state = loaded.state
        for event in events:
            state = apply(state, event)
        self.streams.append(
            SOLUTION, conversation, loaded.seq, stored, key, owner=owner or state.customer, status=status_of(state)
        )
        last = loaded.seq + len(events)
        turns = {**loaded.turns, key: (loaded.seq + 1, last)} if key else loaded.turns
        return self._keep(conversation, Loaded(state, last, events[-1].kind, turns))

    def change(self, conversation: str, decide: Callable[[State], Sequence[Event]]) -> State:
        """Add what `decide` makes of the present state, again and again until no other server was first.

        Raises:
            HaechiError: it never succeeded, or the database refused; and whatever `decide` raises.
        """
        with self.lock(conversation):
            for _ in range(MAX_TRIES):
                loaded = self.load(conversation)
                events = decide(loaded.state)
                if not events:
                    return loaded.state
                try:
                    return self.append(conversation, loaded, events).state
                except Clash:
                    self.forget(conversation)
        raise HaechiError(f"the conversation {conversation} changes faster than it can be written; try again.")

    def _grown(self, conversation: str, known: Loaded, new: Sequence[StreamEvent]) -> Loaded:
        state, turns, begun = known.state, dict(known.turns), ""
        for one in new:
            event = event_of(one)
            state = apply(state, event)
            if one.key:
                begun = one.key
                turns[begun] = (one.seq, one.seq)
            elif begun:
                turns[begun] = (turns[begun][0], one.seq)
                begun = "" if event.kind == "turn_ended" else begun
        return self._keep(conversation, Loaded(state, new[-1].seq, new[-1].kind, turns))

    def _keep(self, conversation: str, loaded: Loaded) -> Loaded:
        with self._kept_lock:
            self._kept[conversation] = loaded
            self._kept.move_to_end(conversation)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return loaded


def _stored(event: Event) -> StreamEvent:
    return StreamEvent(event.kind, {"schema": event.schema, **event.data}, dt.datetime.fromisoformat(event.time))


def event_of(stored: StreamEvent) -> Event:
    """The event in a stored one.

    Raises:
        ValueError: a newer Haechi wrote it.
    """
    data = dict(stored.data)
    return Event.from_dict(
        {"kind": stored.kind, "schema": data.pop("schema", SCHEMA), "data": data, "time": iso(stored.time)}
    )


def status_of(state: State) -> str:
    """How a conversation stands, as lists of conversations filter by."""
    if state.mode != "bot":
        return state.mode
    if state.hand_over:
        return "callback"
    return "ended" if state.ended else "bot"
