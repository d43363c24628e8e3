"""What happens in the conversations, counted: containment, hand-overs, drop-off, rungs, waiting times, unknown topics.

    analytics = Analytics(streams, bot)
    analytics.refresh()                      # reads only what is new
    analytics.report(days=30)                # JSON

Events are read once, in the order in which they were stored. What is kept is a tally for each day, channel and
language, the place of each conversation that was active lately, and the newest texts that were not understood: memory
does not grow with the number of conversations. A day is one of the bot's time zone; a conversation belongs to the day,
the channel and the language in which it began.
"""

from __future__ import annotations

import bisect
import datetime as dt
import math
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from shared.streams import StreamEvent, Streams
from solutions.contact_center.config import Bot, CollectStep, ConfirmStep
from solutions.contact_center.dialogue.store import SOLUTION
from solutions.contact_center.grouping import group
from solutions.contact_center.history import PAGE, belongs

KEPT_OPEN = 20_000
"""Conversations whose place is remembered; an older one that goes on is counted as if it began there."""
KEPT_UNKNOWN = 1000
OVERLAP = 1000
"""Ids that are looked at twice: with PostgreSQL a lower id may be seen after a higher one."""
_NEVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
CONFIRM = "?confirm"
"""The name of a flow's confirm step among its slots."""
_EDGES = [0.1 * 10 ** (step / 20) for step in range(121)]
"""Of the answer times, in ms: 20 to a decade from 0.1 ms to 100 s, so that a quantile is within 6 %."""


@dataclass
class Step:
    """One question of a flow."""

    entered: int = 0
    """Flows that came to it."""
    passed: int = 0
    refused: int = 0
    """Answers that did not hold."""


@dataclass
class Tally:
    """Of one day, channel and language, or a sum of several."""

    conversations: int = 0
    handed_over: int = 0
    """Conversations that asked for a person at least once."""
    messages: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    intents: Counter[str] = field(default_factory=Counter)
    flows: dict[str, Counter[str]] = field(default_factory=dict)
    """Flow -> `started`, and each reason for which it ended."""
    steps: dict[str, dict[str, Step]] = field(default_factory=dict)
    """Flow -> slot -> counts, in the order in which they were first asked."""
    feedback: Counter[str] = field(default_factory=Counter)
    times: Counter[int] = field(default_factory=Counter)
    """Bin of `_EDGES` -> answers."""

    def step(self, flow: str, name: str) -> Step:
        """The counts of a question."""
        return self.steps.setdefault(flow, {}).setdefault(name, Step())

    def add(self, other: Tally) -> None:
        """Sum."""
        self.conversations += other.conversations
        self.handed_over += other.handed_over
        self.messages += other.messages
        for name in ("reasons", "rungs", "intents", "feedback", "times"):
            getattr(self, name).update(getattr(other, name))
        for flow, counts in other.flows.items():
            self.flows.setdefault(flow, Counter()).update(counts)
        for flow, steps in other.steps.items():
            for name, counted in steps.items():
                mine = self.step(flow, name)
                mine.entered += counted.entered
                mine.passed += counted.passed
                mine.refused += counted.refused

    def quantile(self, share: float) -> float | None:
        """Of the answer times in ms, None without any."""
        total = sum(self.times.values())
        below = 0
        for place in sorted(self.times):
            below += self.times[place]
            if below >= share * total:
                return _EDGES[min(place, len(_EDGES) - 1)]
        return None


@dataclass
class _Frame:
    flow: str
    entered: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)


@dataclass
class _Open:
    """Where a conversation stands."""

    key: tuple[str, str, str]
    handed_over: bool = False
    frames: list[_Frame] = field(default_factory=list)
    waits: str = ""
    """The question that the top frame waits at."""
    confirms_at: int = 0
    updated: dt.datetime = _NEVER
    text: str = ""
    unknown: bool = False
    thumbs: dict[str, str] = field(default_factory=dict)
    """Message -> the newest thumb, so that one who thinks again is counted once."""


@dataclass(frozen=True)
class _Unknown:
    conversation: str
    key: tuple[str, str, str]
    text: str


class Analytics:
    """Counts the conversations of one store. Thread-safe."""

    def __init__(self, streams: Streams, bot: Bot) -> None:
        self._streams = streams
        self._bot = bot
        self._zone = ZoneInfo(bot.settings.timezone)
        self._lock = threading.Lock()
        self._tallies: dict[tuple[str, str, str], Tally] = {}
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._unknown: deque[_Unknown] = deque(maxlen=KEPT_UNKNOWN)
        self._last = 0
        self._seen: deque[int] = deque(maxlen=2 * OVERLAP)

    # -- counting ----------------------------------------------------------------------------------------------------

    def refresh(self) -> int:
        """Count what has happened since the last time; how many events that was."""
        with self._lock:
            counted, after = 0, max(self._last - OVERLAP, 0)
            while True:
                events = self._streams.scan(SOLUTION, after_id=after, limit=PAGE)
                counted += self._count(events)
                if len(events) < PAGE:
                    return counted
                after = events[-1].id

    def _count(self, events: Sequence[StreamEvent]) -> int:
        seen = set(self._seen)
        new = [event for event in events if event.id > self._last - OVERLAP and event.id not in seen]
        for event in new:
            self._seen.append(event.id)
            if belongs(event.stream, self._bot.settings.name):
                self._take(event)
        self._last = max([self._last, *(event.id for event in events)])
        return len(new)

    def _take(self, event: StreamEvent) -> None:
        place = self._open.get(event.stream)
        if place is None:
            data = event.data
            if event.kind != "user":
                return  # the rest of a turn whose beginning was counted before this process remembered it
            day = event.time.astimezone(self._zone).date().isoformat()
            place = _Open((day, str(data["channel"]), str(data["language"])))
            self._open[event.stream] = place
            self._tally(place).conversations += 1
            if len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        place.updated = event.time
        self._open.move_to_end(event.stream)
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event, place, self._tally(place))

    def _tally(self, place: _Open) -> Tally:
        return self._tallies.setdefault(place.key, Tally())

    def _user(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        place.text, place.unknown = str(event.data["text"]), False
        tally.messages += bool(place.text)

    def _decided(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        data = event.data
        if data.get("kind") in ("intent", "faq") and data["rung"] == "answer":
            tally.intents[str(data["name"])] += 1
        place.unknown |= data["rung"] in ("ask_again", "hand_over") and data.get("kind") not in ("slot", "pattern")

    def _turn_ended(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        data = event.data
        if data.get("rung"):
            tally.rungs[str(data["rung"])] += 1
        if "ms" in data:
            tally.times[bisect.bisect_left(_EDGES, float(data["ms"]))] += 1
        if place.unknown and place.text:
            self._unknown.append(_Unknown(event.stream, place.key, place.text))

    def _hand_over(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        tally.reasons[str(event.data["reason"])] += 1
        tally.handed_over += not place.handed_over
        place.handed_over = True

    def _feedback(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        message, value = str(event.data["message"]), str(event.data["value"])
        before = place.thumbs.get(message)
        if before is not None:
            tally.feedback[before] -= 1
        place.thumbs[message] = value
        tally.feedback[value] += 1

    def _flow_started(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        flow = str(event.data["flow"])
        place.frames.append(_Frame(flow))
        place.waits = ""
        tally.flows.setdefault(flow, Counter())["started"] += 1

    def _flow_ended(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        reason = str(event.data["reason"])
        if reason == "completed":
            self._pass(place, tally, CONFIRM)
        if place.frames:
            tally.flows.setdefault(place.frames.pop().flow, Counter())[reason] += 1
        place.waits = ""

    def _asked(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        name = CONFIRM if event.kind == "confirm_asked" else str(event.data["slot"])
        place.waits = name
        place.confirms_at = int(event.data.get("step", 0))
        if place.frames and name not in place.frames[-1].entered:
            place.frames[-1].entered.add(name)
            tally.step(place.frames[-1].flow, name).entered += 1

    def _slot_set(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        self._pass(place, tally, str(event.data["slot"]))

    def _moved(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        if place.waits == CONFIRM and int(event.data["step"]) > place.confirms_at:
            self._pass(place, tally, CONFIRM)

    def _refused(self, event: StreamEvent, place: _Open, tally: Tally) -> None:
        if place.frames:
            tally.step(place.frames[-1].flow, str(event.data["slot"])).refused += 1

    @staticmethod
    def _pass(place: _Open, tally: Tally, name: str) -> None:
        frame = place.frames[-1] if place.frames else None
        if frame is not None and name in frame.entered - frame.passed:
            frame.passed.add(name)
            tally.step(frame.flow, name).passed += 1
        if place.waits == name:
            place.waits = ""

    # -- reporting ---------------------------------------------------------------------------------------------------

    def report(
        self, *, days: int = 30, channel: str = "", language: str = "", now: dt.datetime | None = None
    ) -> dict[str, Any]:
        """The figures as JSON, of the last `days` days, one channel or all, one language or all."""
        now = now or dt.datetime.now(dt.UTC)
        first = (now.astimezone(self._zone).date() - dt.timedelta(days=days - 1)).isoformat()

        def wanted(key: tuple[str, str, str]) -> bool:
            return key[0] >= first and channel in ("", key[1]) and language in ("", key[2])

        with self._lock:
            chosen = {key: tally for key, tally in self._tallies.items() if wanted(key)}
            waiting = self._waiting(wanted, now)
            unknown = [one for one in self._unknown if wanted(one.key)]
        total = _sum(chosen.values())
        return {
            "bot": self._bot.settings.name,
            "days": days,
            "channel": channel,
            "language": language,
            **_figures(total),
            "hand_over_reasons": dict(total.reasons.most_common()),
            "rungs": dict(total.rungs),
            "intents": dict(total.intents.most_common(20)),
            "feedback": dict(total.feedback),
            "flows": _flows(total, waiting, self._bot),
            "by_day": _by(chosen, 0),
            "by_channel": _by(chosen, 1),
            "by_language": _by(chosen, 2),
            "unknown_topics": self._topics(unknown),
        }

    def _waiting(self, wanted: Callable[[tuple[str, str, str]], bool], now: dt.datetime) -> Counter[tuple[str, str]]:
        """Conversations that stand at a question and may still answer it."""
        patience = dt.timedelta(minutes=self._bot.settings.policies.form_timeout_minutes)
        return Counter(
            (place.frames[-1].flow, place.waits)
            for place in self._open.values()
            if place.frames and place.waits and place.updated > now - patience and wanted(place.key)
        )

    def _topics(self, unknown: Sequence[_Unknown]) -> list[dict[str, Any]]:
        """What was not understood, by likeness; conversations that were deleted meanwhile are left out."""
        there = {name for name in {one.conversation for one in unknown} if self._streams.head(SOLUTION, name)}
        kept = [one for one in unknown if one.conversation in there]
        return [
            {"name": one.name, "count": len(one.members), "examples": one.examples}
            for one in group([one.text for one in kept])[:12]
        ]


_HANDLERS: dict[str, Callable[[Analytics, StreamEvent, _Open, Tally], None]] = {
    "user": Analytics._user,
    "decided": Analytics._decided,
    "turn_ended": Analytics._turn_ended,
    "hand_over": Analytics._hand_over,
    "feedback": Analytics._feedback,
    "flow_started": Analytics._flow_started,
    "flow_ended": Analytics._flow_ended,
    "slot_asked": Analytics._asked,
    "confirm_asked": Analytics._asked,
    "slot_set": Analytics._slot_set,
    "moved": Analytics._moved,
    "slot_refused": Analytics._refused,
}


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _figures(tally: Tally) -> dict[str, Any]:
    count = tally.conversations
    return {
        "conversations": count,
        "messages": tally.messages,
        "turns_per_conversation": round(tally.messages / count, 2) if count else None,
        "handed_over": tally.handed_over,
        "containment": round(1 - tally.handed_over / count, 4) if count else None,
        "answer_ms_p50": _rounded(tally.quantile(0.5)),
        "answer_ms_p95": _rounded(tally.quantile(0.95)),
    }


def _rounded(value: float | None) -> float | None:
    """Two digits: more are not known."""
    return None if value is None else float(f"{value:.2g}") if math.isfinite(value) else None


def _by(tallies: dict[tuple[str, str, str], Tally], part: int) -> list[dict[str, Any]]:
    """Figures for each day, channel or language, in their order."""
    names = sorted({key[part] for key in tallies})
    found = []
    for name in names:
        tally = _sum(one for key, one in tallies.items() if key[part] == name)
        found.append({"name": name, **_figures(tally), "rungs": dict(tally.rungs)})
    return found


def _flows(tally: Tally, waiting: Counter[tuple[str, str]], bot: Bot) -> list[dict[str, Any]]:
    """Each flow, the most started first, with its questions in its own order and how many were left at each."""
    found = []
    for flow, counts in sorted(tally.flows.items(), key=lambda item: (-item[1]["started"], item[0])):
        steps = []
        order = _order(flow, bot)
        for name, step in sorted(tally.steps.get(flow, {}).items(), key=lambda item: order.get(item[0], len(order))):
            here = waiting[flow, name]
            left = max(step.entered - step.passed - here, 0)
            steps.append({"step": name, **vars(step), "waiting": here, "dropped": left})
        ended = {reason: count for reason, count in counts.items() if reason != "started"}
        found.append({"flow": flow, "started": counts["started"], "ended": ended, "steps": steps})
    return found


def _order(flow: str, bot: Bot) -> dict[str, int]:
    """Question -> its place in the flow; questions of an older version of the flow are not in it."""
    config = bot.flows.get(flow)
    names = [
        CONFIRM if isinstance(step, ConfirmStep) else step.collect
        for step in (config.steps if config is not None else [])
        if isinstance(step, ConfirmStep | CollectStep)
    ]
    return {name: place for place, name in reversed(list(enumerate(names)))}
