"""Conversation tests: what a bot's `tests/*.yaml` say must come of a conversation, and which flows they go through.

Every test is a conversation of its own, on a store of its own, with the real understanding, engine and actions; only
the clock is the test's. Covered are the flows that were started and the steps at which a flow stood.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from shared.records import Records
from shared.streams import Streams
from solutions.contact_center.bot_models import TEST_NOW
from solutions.contact_center.config import Bot, Expect, TestConfig
from solutions.contact_center.dialogue.events import Event, Message, Reply
from solutions.contact_center.dialogue.sealing import Vault
from solutions.contact_center.dialogue.state import State, apply
from solutions.contact_center.dialogue.store import event_of
from solutions.contact_center.pipeline import BotPipeline, Understands

BETWEEN = dt.timedelta(seconds=5)
"""Time that passes between two messages of a test."""
_SHOWN = 200
"""Characters of a message or text that are shown."""


@dataclass(frozen=True)
class Failure:
    """One expectation that did not hold."""

    step: int
    """From 1, among all steps of the test."""
    user: str
    field: str
    expected: Any
    got: Any

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Outcome:
    """What came of one test."""

    test: str
    steps: int
    failures: tuple[Failure, ...]
    transcript: tuple[tuple[str, str], ...]
    """(who, text), masked."""
    flows: frozenset[str]
    visited: frozenset[tuple[str, int]]

    @property
    def passed(self) -> bool:
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "test": self.test,
            "passed": self.passed,
            "steps": self.steps,
            "failures": [failure.as_dict() for failure in self.failures],
            "transcript": [{"who": who, "text": text} for who, text in self.transcript],
        }


@dataclass(frozen=True)
class Rehearsal:
    """What came of all tests of a bot."""

    bot: Bot
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether every test did."""
        return all(outcome.passed for outcome in self.outcomes)

    def coverage(self) -> dict[str, Any]:
        """Flows and steps that the tests went through, as counts and as what is missing."""
        flows = frozenset().union(*(outcome.flows for outcome in self.outcomes))
        visited = frozenset().union(*(outcome.visited for outcome in self.outcomes))
        steps = {(name, index) for name, flow in self.bot.flows.items() for index in range(len(flow.steps))}
        missing = sorted(steps - visited)
        return {
            "flows": {"covered": len(flows & set(self.bot.flows)), "total": len(self.bot.flows)},
            "steps": {"covered": len(steps) - len(missing), "total": len(steps)},
            "missing_flows": sorted(set(self.bot.flows) - flows),
            "missing_steps": [f"{name}:{index + 1}" for name, index in missing],
        }

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "bot": self.bot.settings.name,
            "passed": self.passed,
            "tests": len(self.outcomes),
            "failed": sum(not outcome.passed for outcome in self.outcomes),
            "coverage": self.coverage(),
            "outcomes": [outcome.as_dict() for outcome in self.outcomes],
        }


def rehearse(
    bot: Bot, understander: Understands, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Rehearsal:
    """Run all tests of a bot."""
    outcomes = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haechi-rehearsal-")))
        records = stack.enter_context(Records.open(f"sqlite:///{folder / 'records.db'}"))
        pipeline = BotPipeline(bot, understander, Streams(records), vault=Vault.of_home(folder))
        for number, test in enumerate(bot.tests.values(), 1):
            outcomes.append(_one(pipeline, test, f"test-{number}"))
            on_progress(number, len(bot.tests))
    return Rehearsal(bot, tuple(outcomes))


@dataclass
class _Course:
    """A test under way."""

    pipeline: BotPipeline
    conversation: str
    failures: list[Failure] = field(default_factory=list)
    transcript: list[tuple[str, str]] = field(default_factory=list)


def _one(pipeline: BotPipeline, test: TestConfig, conversation: str) -> Outcome:
    zone = ZoneInfo(pipeline.bot.settings.timezone)
    start = test.now or dt.datetime.fromisoformat(TEST_NOW)
    now = start if start.tzinfo is not None else start.replace(tzinfo=zone)
    course = _Course(pipeline, conversation)
    for number, step in enumerate(test.steps, 1):
        if step.wait_minutes is not None:
            now += dt.timedelta(minutes=step.wait_minutes)
            continue
        now += BETWEEN
        message = Message(step.text, f"{conversation}-{number}", test.channel, test.language, now)
        reply = pipeline.reply(conversation, message)
        course.transcript.append(("user", step.text[:_SHOWN]))
        course.transcript += [("bot", text) for text in reply.texts]
        for name, expected, got in _wrong(step.expect, reply, pipeline, conversation):
            course.failures.append(Failure(number, step.text[:_SHOWN], name, expected, got))
    flows, visited = _walked([event_of(one) for one in pipeline.conversations.events(conversation)])
    return Outcome(
        test.test,
        len(test.steps),
        tuple(course.failures),
        tuple(course.transcript),
        frozenset(flows),
        frozenset(visited),
    )


def _walked(events: Sequence[Event]) -> tuple[set[str], set[tuple[str, int]]]:
    state, flows, visited = State(), set(), set()
    for event in events:
        state = apply(state, event)
        if state.frame is not None:
            flows.add(state.frame.flow)
            visited.add((state.frame.flow, state.frame.step))
    return flows, visited


_Wrong = tuple[str, Any, Any]


def _wrong(expect: Expect, reply: Reply, pipeline: BotPipeline, conversation: str) -> list[_Wrong]:
    """(field, expected, got) of everything that does not hold."""
    given = expect.model_fields_set
    state = pipeline.state(conversation)
    events = reply.events
    found: list[_Wrong] = []

    def must(name: str, holds: bool, expected: Any, got: Any) -> None:
        if name in given and not holds:
            found.append((name, expected, got))

    intents = _intents(events)
    must("intent", expect.intent in intents, expect.intent, intents[:1])
    flow = state.frame.flow if state.frame is not None else False
    must("flow", flow == (expect.flow or False), expect.flow, flow)
    said = [event.data["response"] for event in events if event.kind == "said"]
    answered = [name.removeprefix("faq:") for name in said if name.startswith("faq:")]
    must("faq", expect.faq in answered, expect.faq, answered)
    must("says", expect.says in said, expect.says, said)
    must("rung", expect.rung == reply.rung, expect.rung, reply.rung)
    ended = any(event.kind == "flow_ended" for event in events)
    must("ended", expect.ended == ended, expect.ended, ended)
    asked = [event.data["reason"] for event in events if event.kind == "hand_over"]
    handed: bool | str = asked[-1] if asked else reply.handed_over
    holds = bool(handed) == expect.hand_over if isinstance(expect.hand_over, bool) else expect.hand_over == handed
    must("hand_over", holds, expect.hand_over, handed)
    text = "\n".join(reply.texts)
    found += [("text", wanted, text) for wanted in expect.text if not _matches(wanted, text)]
    found += [("not_text", unwanted, text) for unwanted in expect.not_text if _matches(unwanted, text)]
    return found + _wrong_slots(expect.slot, pipeline, state, conversation)


def _intents(events: Sequence[Event]) -> list[str]:
    """What the turn was decided to be about, then what was understood first."""
    decided = [event.data["name"] for event in events if event.kind == "decided" and event.data.get("kind") != "slot"]
    understood = [
        part["intents"][0][0]
        for event in events
        if event.kind == "understood"
        for part in (event.data, *event.data["parts"])
        if part["intents"]
    ]
    return [name for name in (*decided, *understood) if name]


def _wrong_slots(expected: Mapping[str, Any], pipeline: BotPipeline, state: State, conversation: str) -> list[_Wrong]:
    values = pipeline.slots(conversation)
    kept = {**state.memory, **(state.frame.slots if state.frame is not None else {})}
    wrong: list[_Wrong] = []
    for name, wanted in expected.items():
        got = values.get(name)
        shown = kept.get(name, {}).get("shown")
        if not (got == wanted or (got is not None and wanted is not None and str(wanted) in (str(got), str(shown)))):
            wrong.append((f"slot.{name}", wanted, got))
    return wrong


def _matches(wanted: str, text: str) -> bool:
    if len(wanted) > 2 and wanted.startswith("/") and wanted.endswith("/"):
        return re.search(wanted[1:-1], text) is not None
    return wanted in text
