"""The bodies of the bot's HTTP API. Requests are strict: a number is no text, and an unknown field is an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

MAX_TEXT = 20_000
"""Characters of one message that are read at all; the bot itself says when a message is too long for it."""

MessageId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
Customer = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f]{1,128}$")]
Language = Literal["ko", "en"]
Channel = Literal["rest", "web", "terminal", "voice"]


class StrictBody(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class StartBody(StrictBody):
    """A conversation that begins."""

    customer: Customer | None = None
    """Whose it is, in the caller's own terms: what is said is deleted by this id, and actions are told it."""
    language: Language | None = None
    """By default the bot's first."""
    channel: Channel = "rest"
    """Chooses the greeting and the wording."""


class PublicStartBody(StrictBody):
    """A conversation that somebody begins in a browser."""

    language: Language | None = None


class MessageBody(StrictBody):
    """Something the user says."""

    id: MessageId
    """The client's own, unique within the conversation: the same id again is the same message, and gets its answer."""
    text: Annotated[str, StringConstraints(max_length=MAX_TEXT)]
    language: Language | None = None


class KeyedMessageBody(MessageBody):
    """The same from a program."""

    channel: Channel = "rest"
    customer: Customer | None = None
    """As at the start; needed only where the conversation began without it."""


class FeedbackBody(StrictBody):
    """What the user thinks of an answer."""

    message: MessageId
    """The id of the message that it answered."""
    value: Literal["up", "down"]
    note: Annotated[str, StringConstraints(max_length=2000)] = ""


class ButtonAnswer(BaseModel):
    """A quick reply: pressing it says `say`, or opens `url`."""

    title: str
    say: str = ""
    url: str = ""


class ReplyAnswer(BaseModel):
    """What the bot answers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    texts: list[str]
    buttons: list[ButtonAnswer]
    rung: str
    """answer, confirm, choose, ask_again or hand_over; empty where nothing had to be understood."""
    ended: bool
    handed_over: bool
    """A person was asked for or speaks already."""
    position: int | None
    """From 1 in the queue for a person; null where the conversation does not wait."""
    turn: int
    duplicate: bool
    """The message had been answered before; this is that answer."""


class StartAnswer(ReplyAnswer):
    """A conversation has begun."""

    conversation: str
    token: str
    """For a browser: what it proves lasts a week."""


class LineAnswer(BaseModel):
    """One thing that was said; personal data in it is masked."""

    seq: int
    time: str
    who: Literal["user", "bot", "agent"]
    name: str
    """Of the agent."""
    text: str
    message: str
    buttons: list[ButtonAnswer]


class TranscriptAnswer(BaseModel):
    """A conversation as far as it has come."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    lines: list[LineAnswer]
    mode: Literal["bot", "waiting", "agent"]
    """Who speaks."""
    agent: str
    position: int
    """From 1 in the queue for a person; 0 where it does not wait."""
    ended: bool
    last: int
    """Give it as `after` for what comes next."""


class BotAnswer(BaseModel):
    """A bot that may be talked to."""

    name: str
    version: str
    ready: bool


class DeletedAnswer(BaseModel):
    """What was deleted."""

    conversations: int
