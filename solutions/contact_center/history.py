"""Stored conversations as people and figures need them: turn by turn, with what was understood, done and regretted.

    for turn in turns_of(streams.read(SOLUTION, "c-1")): ...

Everything comes from the events; texts in them are masked already.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.streams import StreamEvent, Streams
from solutions.contact_center.config import Costs
from solutions.contact_center.dialogue.store import SOLUTION

ASKING = ("confirm", "choose", "ask_again")
"""Rungs on which the bot asks back."""
REGRETS = ("deny", "cancel", "correct", "agent", "insult", "back")
"""Patterns that, right after an answer, say that it was not what was wanted."""
HORIZON = 3
"""Turns over which a decision's cost is counted: as long as clarifications go on at most."""
PAGE = 5000
"""Events read from the store at a time."""


@dataclass
class TurnSeen:
    """One message and what came of it."""

    conversation: str
    number: int
    time: dt.datetime
    channel: str
    language: str
    text: str
    """Masked; empty where the conversation was only opened."""
    message: str = ""
    """The id of the message."""
    intents: Sequence[tuple[str, float]] = ()
    scope: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    faqs: Sequence[tuple[str, float]] = ()
    decided: list[Mapping[str, Any]] = field(default_factory=list)
    said: list[Mapping[str, Any]] = field(default_factory=list)
    agent_said: list[tuple[str, str]] = field(default_factory=list)
    """(who, text) until the next message."""
    hand_over: str = ""
    """The reason, where a person was asked for."""
    insulted: bool = False
    rung: str = ""
    intent: str = ""
    """What was answered, started or clarified in the end."""
    good: bool | None = None
    """What somebody thought of the answer."""
    ms: float | None = None

    @property
    def wish(self) -> Mapping[str, Any] | None:
        """The first decision about a wish: not the answer to a slot's question, nor a pattern."""
        return next((one for one in self.decided if one.get("kind") not in ("slot", "pattern")), None)

    @property
    def patterns(self) -> list[str]:
        """The patterns that the message was taken for."""
        return [str(one.get("name")) for one in self.decided if one.get("kind") == "pattern"]


def turns_of(events: Iterable[StreamEvent], conversation: str = "") -> list[TurnSeen]:
    """The turns of one conversation, from its events in order."""
    turns: list[TurnSeen] = []
    for event in events:
        data = event.data
        if event.kind == "user":
            name = event.stream or conversation or str(data.get("conversation", ""))
            turns.append(_begun(name, len(turns) + 1, event))
        elif turns:
            _add(turns, event)
    return turns


def _begun(conversation: str, number: int, event: StreamEvent) -> TurnSeen:
    data = event.data
    channel, language, text, message = (str(data[key]) for key in ("channel", "language", "text", "id"))
    return TurnSeen(conversation, number, event.time, channel, language, text, message)


def _add(turns: list[TurnSeen], event: StreamEvent) -> None:
    turn, data = turns[-1], event.data
    if event.kind == "understood":
        turn.intents = [(str(name), float(confidence)) for name, confidence in data["intents"]]
        turn.faqs = [(str(name), float(confidence)) for name, _, confidence in data["faqs"]]
        turn.scope = float(data["scope"])
        turn.thresholds = data.get("thresholds", {})
    elif event.kind == "decided":
        turn.decided.append(data)
    elif event.kind == "said":
        turn.said.append(data)
    elif event.kind == "agent_said":
        turn.agent_said.append((str(data["agent"]), str(data["text"])))
    elif event.kind == "hand_over":
        turn.hand_over = str(data["reason"])
    elif event.kind == "insulted":
        turn.insulted = True
    elif event.kind == "turn_ended":
        turn.rung, turn.intent = str(data.get("rung", "")), str(data.get("intent", ""))
        turn.ms = float(data["ms"]) if "ms" in data else None
    elif event.kind == "feedback":
        for one in turns:
            if one.message == data["message"]:
                one.good = data["value"] == "up"


def belongs(stream: str, bot: str) -> bool:
    """Whether a conversation is this bot's: servers put the bot's name before a `/`; without one there is one bot."""
    name, slash, _ = stream.partition("/")
    return not slash or name == bot


def conversations_of(
    streams: Streams, bot: str, *, since: dt.datetime | None = None, limit: int = 10_000
) -> Iterator[list[TurnSeen]]:
    """Whole conversations of a bot in the order of their last change, newest first."""
    for head in streams.list_streams(SOLUTION, updated_since=since, limit=limit):
        if not belongs(head.stream, bot):
            continue
        turns = turns_of(streams.read(SOLUTION, head.stream), head.stream)
        if turns:
            yield turns


def regretted(turns: Sequence[TurnSeen], at: int) -> bool:
    """Whether the answer of a turn was not what the customer wanted, as far as they let it be known."""
    if turns[at].good is not None:
        return not turns[at].good
    if at + 1 >= len(turns):
        return False
    following = turns[at + 1]
    return following.insulted or following.hand_over == "asked" or any(one in REGRETS for one in following.patterns)


def clarified_as(turns: Sequence[TurnSeen], at: int) -> str:
    """What the customer chose after the bot had asked back about this turn; empty where they chose nothing."""
    if at + 1 >= len(turns) or turns[at].rung not in ("confirm", "choose"):
        return ""
    return next((str(one["name"]) for one in turns[at + 1].decided if one.get("reason") == "clarified"), "")


def cost_of(turns: Sequence[TurnSeen], at: int, costs: Costs) -> float:
    """What the decision of a turn has cost until the wish was answered or handed over, in the bot's own costs.

    Whoever leaves while the bot still asks has to be served by somebody else: that counts as a hand-over.
    """
    total = 0.0
    for place in range(at, min(at + HORIZON, len(turns))):
        turn = turns[place]
        if turn.hand_over:
            return total + costs.hand_over
        if turn.rung not in ASKING:
            return total + (costs.wrong_answer if regretted(turns, place) else 0.0)
        total += costs.clarification
    return total + costs.hand_over


def worst_cost(costs: Costs) -> float:
    """The most that `cost_of` can give."""
    return HORIZON * costs.clarification + max(costs.hand_over, costs.wrong_answer)


def logged(turns: Sequence[TurnSeen], costs: Costs) -> list[dict[str, Any]]:
    """A learned policy's choices in one conversation, with rewards from 0 to 1, for `bandit_evaluation.Logs.of`."""
    found = []
    for at, turn in enumerate(turns):
        for decision in turn.decided:
            if decision.get("policy"):
                reward = 1.0 - cost_of(turns, at, costs) / worst_cost(costs)
                found.append({**decision["policy"], "conversation": turn.conversation, "reward": reward})
    return found


def logged_variants(turns: Sequence[TurnSeen], costs: Costs) -> dict[str, list[dict[str, Any]]]:
    """As `logged`, for the variants of each response: the reward is that of the turn that they were said in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for at, turn in enumerate(turns):
        for said in turn.said:
            if said.get("policy"):
                reward = 1.0 - cost_of(turns, at, costs) / worst_cost(costs)
                entry = {**said["policy"], "conversation": turn.conversation, "reward": reward}
                found.setdefault(str(said["response"]), []).append(entry)
    return found
