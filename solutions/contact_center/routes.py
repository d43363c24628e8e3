"""The contact centre's HTTP API for programs that hold a key; what strangers' browsers use is in `chat.py`.

    GET    /api/contact_center/bots                                                            role viewer
    POST   /api/contact_center/bots/{bot}/conversations                   begin; the bot greets     operator
    POST   /api/contact_center/bots/{bot}/conversations/{id}/messages     {"id": …, "text": …}      operator
    GET    /api/contact_center/bots/{bot}/conversations/{id}              transcript                operator
    POST   /api/contact_center/bots/{bot}/conversations/{id}/feedback     a thumb                   operator
    WS     /api/contact_center/bots/{bot}/conversations/{id}/socket       see `sockets.py`          operator
    DELETE /api/contact_center/customers/{customer}                       all conversations         engineer

A program may choose a conversation's id itself (a telephone call's, say) and begin with a message.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query
from starlette.websockets import WebSocket

from shared.serving.auth import allow, authorize
from shared.serving.keys import Principal
from solutions.contact_center import chat, kakao
from solutions.contact_center.answers import position_in, reply_dict, transcript
from solutions.contact_center.dialogue.events import Message
from solutions.contact_center.dialogue.store import SOLUTION
from solutions.contact_center.models import (
    BotAnswer,
    DeletedAnswer,
    FeedbackBody,
    KeyedMessageBody,
    ReplyAnswer,
    StartAnswer,
    StartBody,
    TranscriptAnswer,
)
from solutions.contact_center.service import BotService, Open, new_conversation, open_bot
from solutions.contact_center.sockets import Hub, Talk

if TYPE_CHECKING:
    from shared.serving.state import ServerState

PREFIX = f"/api/{SOLUTION}"
After = Annotated[int, Query(ge=0, le=2**53, description="only what was said after this event")]


def router_for(state: ServerState, opens: Open = open_bot) -> APIRouter:
    """All channels on a server; `opens` where a bot comes from elsewhere than its package."""
    service = BotService(state, opens)
    hub = Hub(service)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with service.running(), hub.running():
            yield

    router = APIRouter(lifespan=lifespan)
    keyed = APIRouter(prefix=PREFIX, tags=[SOLUTION])
    _add_talking(keyed, service)
    _add_looking(keyed, service)
    _add_socket(keyed, service, hub)
    router.include_router(keyed)
    router.include_router(chat.router_for(service, hub))
    router.include_router(kakao.router_for(service))
    return router


def _add_talking(router: APIRouter, service: BotService) -> None:
    operator = Depends(service.state.require("operator"))

    @router.post("/bots/{bot}/conversations", response_model=StartAnswer, status_code=201)
    async def start(bot: str, body: StartBody, principal: Principal = operator) -> Any:
        service.state.rates.check(principal)
        conversation = new_conversation()
        reply = await service.start(bot, conversation, body.channel, body.language, body.customer or "")
        token = service.tokens.issue(bot, conversation)
        return {**reply_dict(reply, 0), "conversation": conversation, "token": token}

    @router.post("/bots/{bot}/conversations/{conversation}/messages", response_model=ReplyAnswer)
    async def say(bot: str, conversation: str, body: KeyedMessageBody, principal: Principal = operator) -> Any:
        service.state.rates.check(principal)
        message = Message(body.text, body.id, body.channel, body.language)
        reply = await service.reply(bot, conversation, message, body.customer or "")
        return reply_dict(reply, await position_in(service, bot, conversation, reply))

    @router.post("/bots/{bot}/conversations/{conversation}/feedback", status_code=204)
    async def feedback(bot: str, conversation: str, body: FeedbackBody, principal: Principal = operator) -> None:
        await service.feedback(bot, conversation, body.message, body.value, body.note, principal.name)


def _add_looking(router: APIRouter, service: BotService) -> None:
    viewer = [Depends(service.state.require("viewer"))]
    operator = [Depends(service.state.require("operator"))]
    engineer = Depends(service.state.require("engineer"))

    @router.get("/bots", response_model=list[BotAnswer], dependencies=viewer)
    async def bots() -> Any:
        served = [service.served(name) for name in service.bots()]
        return [{"name": one.name, "version": one.version, "ready": one.ready} for one in served]

    @router.get("/bots/{bot}/conversations/{conversation}", response_model=TranscriptAnswer, dependencies=operator)
    async def look(bot: str, conversation: str, after: After = 0) -> Any:
        return await transcript(service, bot, conversation, after)

    @router.delete("/customers/{customer}", response_model=DeletedAnswer)
    async def forget(
        customer: Annotated[str, Path(min_length=1, max_length=200)], principal: Principal = engineer
    ) -> Any:
        return {"conversations": await service.forget(customer, principal.name)}


def _add_socket(router: APIRouter, service: BotService, hub: Hub) -> None:
    @router.websocket("/bots/{bot}/conversations/{conversation}/socket")
    async def socket(websocket: WebSocket, bot: str, conversation: str, after: int = 0) -> None:
        authorize(websocket, "operator")
        await service.pipeline(bot)
        headers = dict(websocket.scope["headers"])

        def check() -> None:
            principal = allow(service.state.auth.identify(headers), "operator")  # the key may have been revoked
            service.state.rates.check(principal)

        talk = Talk(service, hub, websocket, bot, conversation, channel="rest", check=check)
        await websocket.accept()
        await talk.run(max(0, after))
