"""Replies and conversations as the HTTP API's answers have them."""

from __future__ import annotations

from typing import Any

from shared.serving.errors import NotFound
from solutions.contact_center.dialogue.events import Reply
from solutions.contact_center.service import BotService
from solutions.contact_center.sockets import line_dict


def reply_dict(reply: Reply, position: int) -> dict[str, Any]:
    """A reply as `ReplyAnswer` has it."""
    return {
        "texts": reply.texts,
        "buttons": [button.as_dict() for button in reply.buttons],
        "rung": reply.rung,
        "ended": reply.ended,
        "handed_over": reply.handed_over,
        "position": position or None,
        "turn": reply.turn,
        "duplicate": reply.duplicate,
    }


async def position_in(service: BotService, bot: str, conversation: str, reply: Reply) -> int:
    """The place in the queue for a person after a reply; 0 where it does not wait."""
    if not reply.handed_over:
        return 0
    asked = [int(event.data["position"]) for event in reply.events if event.kind == "hand_over"]
    if asked and not reply.duplicate:
        return asked[-1]
    standing = await service.standing(bot, conversation) if reply.texts else None  # beside a person the bot is silent
    return 0 if standing is None else standing.position


async def transcript(service: BotService, bot: str, conversation: str, after: int) -> dict[str, Any]:
    """A conversation as `TranscriptAnswer` has it.

    Raises:
        NotFound: there is no such conversation.
    """
    standing = await service.standing(bot, conversation)
    if standing is None:
        raise NotFound(f"there is no conversation {conversation}.")
    lines = await service.lines(bot, conversation, after)
    return {"lines": [line_dict(line) for line in lines], **vars(standing)}
