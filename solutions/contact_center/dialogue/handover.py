"""The queue of conversations that wait for a person, as a console shows and serves it.

    queue = HandoverQueue(conversations, bot)
    request = queue.open()[0]
    queue.take(request.conversation, "kim")
    queue.say(request.conversation, "kim", "안녕하세요, 이어서 도와드릴게요.")
    queue.give_back(request.conversation, "kim")

Every call is safe from any thread and any server: two people who take the same conversation at once do not both get it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import BadInput
from solutions.contact_center.config import Bot
from solutions.contact_center.dialogue.events import Event, iso
from solutions.contact_center.dialogue.state import State
from solutions.contact_center.dialogue.store import SOLUTION, Conversations, event_of
from solutions.contact_center.dialogue.wording import Wording, by_hash
from solutions.contact_center.masking import mask

MAX_OPEN = 500
"""Requests that are listed; a contact centre with more waiting has other worries."""
MAX_SAID = 4000
"""Characters of one thing that a person says."""


@dataclass(frozen=True)
class Request:
    """A conversation that wants a person, or has one."""

    conversation: str
    customer: str
    reason: str
    time: str
    """Of the request, ISO 8601, UTC."""
    status: str
    """`waiting`, `agent` (somebody has it), `callback` (asked for outside of office hours)."""
    agent: str
    position: int
    """From 1 among those that wait; 0 where it does not wait."""
    summary: Mapping[str, Any]
    """Flows under way with their slots as they may be shown, and what was known before."""


@dataclass(frozen=True)
class Line:
    """One line of a transcript; personal data in it is masked."""

    time: str
    who: str
    """`user`, `bot`, or the agent's name."""
    text: str


class HandoverQueue:
    """Requests for a person, from the store."""

    def __init__(self, conversations: Conversations, bot: Bot) -> None:
        self._conversations = conversations
        self._bot = bot
        self._wording = Wording(bot)

    def open(self, *, with_taken: bool = True, with_callbacks: bool = True) -> list[Request]:
        """Requests in the order in which they are to be served: those that wait, then call-backs, then taken ones."""
        wanted = ["waiting", *(["agent"] if with_taken else []), *(["callback"] if with_callbacks else [])]
        heads = self._conversations.streams.list_streams(SOLUTION, status=wanted, oldest_first=True, limit=MAX_OPEN)
        states = [self._conversations.load(head.stream).state for head in heads]
        states = [state for state in states if state.hand_over or state.mode != "bot"]
        states.sort(key=lambda state: (str(state.hand_over.get("time", "")), state.conversation))
        positions = {
            state.conversation: place
            for place, state in enumerate((state for state in states if state.mode == "waiting"), 1)
        }
        requests = [_request(state, positions.get(state.conversation, 0)) for state in states]
        order = ["waiting", "callback", "agent"]
        return sorted(requests, key=lambda request: (order.index(request.status), request.time))

    def ahead(self, conversation: str) -> int:
        """How many have waited longer than this conversation; all that wait, where it does not yet."""
        return self._conversations.streams.before(SOLUTION, "waiting", conversation)

    def transcript(self, conversation: str) -> list[Line]:
        """What was said, in order."""
        return transcript([event_of(one) for one in self._conversations.events(conversation)])

    def take(self, conversation: str, agent: str, now: dt.datetime | None = None) -> State:
        """The agent joins; the bot is silent from now on.

        Raises:
            BadInput: another agent has the conversation, or it never began, or the agent has no name.
        """
        if not agent.strip():
            raise BadInput("the agent who takes a conversation has no name; give one.")

        def decide(state: State) -> list[Event]:
            if not state.conversation:
                raise BadInput(f"there is no conversation {conversation}.")
            if state.mode == "agent" and state.agent != agent:
                raise BadInput(f"the conversation {conversation} is with {state.agent} already.")
            if state.mode == "agent":
                return []
            time = _time(now)
            return [Event("agent_joined", {"agent": agent}, time), self._said(state, "agent_joined", time, agent)]

        return self._conversations.change(conversation, decide)

    def say(self, conversation: str, agent: str, text: str, now: dt.datetime | None = None) -> State:
        """The agent says something to the customer. Personal data is masked, as everywhere in the store.

        Raises:
            BadInput: the conversation is not with this agent, or there is nothing to say, or too much.
        """
        said = text.strip()
        if not 0 < len(said) <= MAX_SAID:
            raise BadInput(f"what an agent says has 1 to {MAX_SAID} characters; this has {len(said)}.")

        def decide(state: State) -> list[Event]:
            _must_be_with(state, conversation, agent)
            return [Event("agent_said", {"agent": agent, "text": mask(said).text}, _time(now))]

        return self._conversations.change(conversation, decide)

    def give_back(
        self, conversation: str, agent: str, *, resume: bool = False, now: dt.datetime | None = None
    ) -> State:
        """The agent leaves and the bot speaks again; with `resume` it keeps the flow that was under way.

        Raises:
            BadInput: the conversation is not with this agent.
        """

        def decide(state: State) -> list[Event]:
            _must_be_with(state, conversation, agent)
            time = _time(now)
            left = Event("returned", {"agent": agent, "resume": resume}, time)
            return [left, self._said(state, "returned", time, agent)]

        return self._conversations.change(conversation, decide)

    def _said(self, state: State, response: str, time: str, agent: str) -> Event:
        choose = by_hash(state.conversation, state.turn)
        language = state.language or self._bot.settings.language
        said = self._wording.say(response, language, state.channel, {"agent": agent}, choose)
        buttons = [button.as_dict() for button in said.buttons]
        data = {"response": response, "variant": said.variant, "text": said.text, "buttons": buttons}
        return Event("said", data, time)


def _request(state: State, position: int) -> Request:
    return Request(
        conversation=state.conversation,
        customer=state.customer,
        reason=str(state.hand_over.get("reason", "")),
        time=str(state.hand_over.get("time", "")),
        status=state.mode if state.mode != "bot" else "callback",
        agent=state.agent,
        position=position,
        summary=state.hand_over.get("summary", {}),
    )


def _must_be_with(state: State, conversation: str, agent: str) -> None:
    if state.mode != "agent" or state.agent != agent:
        raise BadInput(f"the conversation {conversation} is not with {agent}; take it first.")


def _time(now: dt.datetime | None) -> str:
    return iso(now or dt.datetime.now(dt.UTC))


def transcript(events: Sequence[Event]) -> list[Line]:
    """What was said in these events, in order."""
    lines = []
    for event in events:
        if event.kind == "user" and event.data["text"]:
            lines.append(Line(event.time, "user", event.data["text"]))
        elif event.kind == "said" and event.data["text"]:
            lines.append(Line(event.time, "bot", event.data["text"]))
        elif event.kind == "agent_said":
            lines.append(Line(event.time, event.data["agent"], event.data["text"]))
    return lines
