"""Figures of a bot's conversations over HTTP.

GET /api/contact_center/bots/{bot}/analytics        what the analytics page shows, as JSON       role viewer
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from solutions.contact_center.desk import desk_of
from solutions.contact_center.dialogue.store import SOLUTION

if TYPE_CHECKING:
    from shared.serving.state import ServerState

PREFIX = f"/api/{SOLUTION}"
Days = Annotated[int, Query(ge=1, le=3660, description="up to today, in the bot's time zone")]
Only = Annotated[str, Query(max_length=32, description="only this one; empty: all")]


class FiguresAnswer(BaseModel):
    """Figures of some conversations."""

    conversations: int
    messages: int
    turns_per_conversation: float | None
    handed_over: int
    """Conversations that asked for a person at least once."""
    containment: float | None
    """Share of the others; null without conversations."""
    answer_ms_p50: float | None
    answer_ms_p95: float | None
    rungs: dict[str, int]
    """Turns by rung of the ladder."""


class PartAnswer(FiguresAnswer):
    """Of one day, channel or language."""

    name: str


class StepAnswer(BaseModel):
    """One question of a flow."""

    step: str
    """The slot; `?confirm` for a confirmation."""
    entered: int
    passed: int
    refused: int
    waiting: int
    dropped: int
    """Conversations that went no further."""


class FlowAnswer(BaseModel):
    """One flow."""

    flow: str
    started: int
    ended: dict[str, int]
    """By reason."""
    steps: list[StepAnswer]


class TopicAnswer(BaseModel):
    """Texts that were not understood and are alike."""

    name: str
    count: int
    examples: list[str]


class AnalyticsAnswer(FiguresAnswer):
    """All figures of a bot."""

    bot: str
    days: int
    channel: str
    language: str
    hand_over_reasons: dict[str, int]
    intents: dict[str, int]
    feedback: dict[str, int]
    flows: list[FlowAnswer]
    by_day: list[PartAnswer]
    by_channel: list[PartAnswer]
    by_language: list[PartAnswer]
    unknown_topics: list[TopicAnswer]


def router_for(state: ServerState) -> APIRouter:
    """The routes on a server."""
    desk = desk_of(state)
    router = APIRouter(prefix=PREFIX, tags=[SOLUTION])
    viewer = [Depends(state.require("viewer"))]

    @router.get("/bots/{bot}/analytics", response_model=AnalyticsAnswer, dependencies=viewer)
    async def analytics(bot: str, days: Days = 30, channel: Only = "", language: Only = "") -> Any:
        report = functools.partial(desk.report, bot, days=days, channel=channel, language=language)
        return await asyncio.to_thread(report)

    return router
