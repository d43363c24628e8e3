"""What rules signal becomes events: start, update, end, each once.

A rule says at every frame what holds. Signals with the same rule, place and subject are one event; it starts when first
signalled (and says since when it has held), is updated when its tracks change and once a second at most, and ends when
nothing has signalled it for the rule's `hold_s`. After its end the like of it is silent for `cooldown_s`. Outside its
schedule a rule is not heard.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

from edge.io.frames import Frame
from solutions.cctv.config import Rule, in_schedule
from solutions.cctv.scene import Event, EventKind, Message, Signal

_UPDATE_S = 1.0
_TRACKS = 50
"""That an event remembers, the newest."""
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

Key = tuple[str, str, Hashable, Hashable, Hashable]


def new_id() -> str:
    """Of an event: 26 letters and digits that sort by time and are unique over restarts (as ULIDs are)."""
    number = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -5, -5))


@dataclass(slots=True)
class _Open:
    event: Event
    held_s: float
    """When it was last signalled."""
    told_s: float
    hold_s: float
    cooldown_s: float
    changed: bool = False


class EventMachine:
    """Of one camera. Not thread-safe."""

    def __init__(self, camera: str, clip: str | None = None, *, zone: ZoneInfo | None = None) -> None:
        """
        Args:
            clip: goes into every event.
            zone: in which schedules are meant.
        """
        self.camera, self.clip, self._zone = camera, clip, zone
        self._open: dict[Key, _Open] = {}
        self._silent: dict[tuple[str, Hashable], float] = {}
        self._now_s = 0.0

    def update(self, signals: Iterable[tuple[Rule, Signal]], frame: Frame) -> list[Message]:
        """Take in what the rules signal at a frame."""
        now = self._now_s = frame.time_s
        messages = []
        for rule, signal in signals:
            if frame.taken_at is not None and not in_schedule(rule, frame.taken_at.astimezone(self._zone)):
                continue
            messages += self._take(rule, signal, now)
        for key, open_ in list(self._open.items()):
            if now - open_.held_s > open_.hold_s:
                messages.append(self._end(key, open_))
            elif open_.changed and now - open_.told_s >= _UPDATE_S:
                open_.told_s, open_.changed = now, False
                messages.append(_message("update", open_.event))
        self._silent = {place: until for place, until in self._silent.items() if until > now}
        return messages

    def close(self) -> list[Message]:
        """End everything that is open: the source has ended."""
        return [self._end(key, open_, at_s=self._now_s) for key, open_ in list(self._open.items())]

    def _take(self, rule: Rule, signal: Signal, now: float) -> list[Message]:
        name = rule.name or rule.type
        place = signal.line if signal.line is not None else signal.zone
        key = (name, signal.type, place, signal.subject, signal.direction)
        open_ = self._open.get(key)
        if open_ is not None:
            open_.held_s = now
            self._change(open_, signal)
            return []
        if (name, place) in self._silent:
            return []
        event = Event(
            id=new_id(),
            camera=self.camera,
            clip=self.clip,
            type=signal.type,
            rule=name,
            start_s=signal.since_s,
            end_s=signal.since_s if signal.instant else None,
            zone=signal.zone,
            line=signal.line,
            direction=signal.direction,
            track_ids=signal.track_ids,
            severity=rule.severity,
            why={"rule": name, **signal.why},
            box=signal.box,
        )
        if signal.instant:
            self._quieten(name, place, rule.cooldown_s, now)
            return [_message("start", event), _message("end", event)]
        self._open[key] = _Open(event, now, now, rule.hold_s, rule.cooldown_s)
        return [_message("start", event)]

    def _change(self, open_: _Open, signal: Signal) -> None:
        event = open_.event
        new = [track for track in signal.track_ids if track not in event.track_ids]
        if new:
            event.track_ids = (*event.track_ids, *new)[-_TRACKS:]
            open_.changed = True
        if signal.why and any(event.why.get(name) != value for name, value in signal.why.items()):
            event.why = {**event.why, **signal.why}
            open_.changed = True
        event.box = signal.box or event.box

    def _end(self, key: Key, open_: _Open, at_s: float | None = None) -> Message:
        del self._open[key]
        open_.event.end_s = open_.held_s if at_s is None else max(at_s, open_.event.start_s)
        self._quieten(key[0], key[2], open_.cooldown_s, open_.event.end_s)
        return _message("end", open_.event)

    def _quieten(self, name: str, place: Hashable, cooldown_s: float, now: float) -> None:
        if cooldown_s:
            self._silent[name, place] = now + cooldown_s


def _message(kind: EventKind, event: Event) -> Message:
    return Message(kind, replace(event, why=dict(event.why)))
