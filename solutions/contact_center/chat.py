"""What customers' browsers use without a key, all below `/chat/{bot}`: the page, the widget, and a small API.

    GET  /chat/{bot}                                    the chat page
    GET  /chat/{bot}/widget.js                          the same for other sites: one script tag, nothing else
    POST /chat/{bot}/conversations                      begin; answers with an unguessable id and a token
    POST /chat/{bot}/conversations/{id}/messages        Authorization: Bearer TOKEN
    GET  /chat/{bot}/conversations/{id}?after=N         what was said, for where WebSockets do not pass
    POST /chat/{bot}/conversations/{id}/feedback
    WS   /chat/{bot}/conversations/{id}/socket          see `sockets.py`; the token comes in the first frame

A bot is here if its `bot.yaml` has the channel `web`. Pages of other sites may use it only where `origins` of that
channel, or this machine's `HAECHI_CHAT_ORIGINS`, names them; nothing rests on cookies, so that no other site can speak
with a visitor's rights. Beginnings are counted by address and messages by conversation. Behind a proxy the address is
the proxy's unless `FORWARDED_ALLOW_IPS` names it.
"""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Callable, Coroutine
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from shared.errors import BadInput, HaechiError
from shared.serving.errors import Forbidden, NotFound, Refusal, Unauthorized
from shared.serving.openapi import CONVERSATION
from shared.serving.rates import Rates
from solutions.contact_center.answers import position_in, reply_dict, transcript
from solutions.contact_center.bot_models import Channel, in_language
from solutions.contact_center.dialogue.events import Message
from solutions.contact_center.models import (
    FeedbackBody,
    MessageBody,
    PublicStartBody,
    ReplyAnswer,
    StartAnswer,
    TranscriptAnswer,
)
from solutions.contact_center.service import BotService, allowed_origins, new_conversation
from solutions.contact_center.sockets import Hub, Talk, hello

if TYPE_CHECKING:
    from solutions.contact_center.pipeline import BotPipeline

PREFIX = "/chat"
CHANNEL: Literal["web"] = "web"
STARTS_PER_SECOND, STARTS_AT_ONCE = 0.5, 30
"""From one address: an office full of people shares one."""
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 2.0, 20
"""In one conversation."""
_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SCRIPT_HEADERS = {"cross-origin-resource-policy": "cross-origin", "cache-control": "public, max-age=300"}
_ALLOWED = {
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "authorization, content-type",
    "access-control-max-age": "600",
}
_WITH_TOKEN: dict[str, Any] = {"security": [{CONVERSATION: []}]}
_After = Annotated[int, Query(ge=0, le=2**53)]


def router_for(service: BotService, hub: Hub) -> APIRouter:
    """The routes, which strangers reach."""
    service.state.auth.open_to_all(f"{PREFIX}/")
    door = _Door(service)
    router = APIRouter(prefix=PREFIX, tags=["chat"], route_class=_with_cors(door))
    _add_files(router, door)
    _add_talking(router, service, door)
    _add_socket(router, service, hub, door)
    return router


class _Door:
    """Who may come in."""

    def __init__(self, service: BotService) -> None:
        self._service = service
        self._starts = Rates(STARTS_PER_SECOND, STARTS_AT_ONCE)
        self._messages = Rates(MESSAGES_PER_SECOND, MESSAGES_AT_ONCE)

    async def pipeline(self, bot: str) -> BotPipeline:
        """The bot, if it talks with browsers.

        Raises:
            NotFound: there is no such bot, or its `bot.yaml` has no channel `web`.
        """
        pipeline = await self._service.pipeline(bot)
        if CHANNEL not in pipeline.bot.settings.channels:
            raise NotFound(f"the bot {bot} has no chat; add the channel web to its bot.yaml and train it again.")
        return pipeline

    async def enter(self, bot: str, connection: HTTPConnection) -> str:
        """The origin that must be told it may read the answer; empty where that is no other site's.

        Raises:
            Forbidden: a page of a site that is not allowed asks. NotFound: as `pipeline`.
        """
        pipeline = await self.pipeline(bot)
        origin = connection.headers.get("origin", "")
        if not origin or _is_ours(connection, origin):
            return ""
        if origin not in allowed_origins(pipeline):
            raise Forbidden(f"pages of {origin[:200]} may not use this bot; add it to origins of its channel web.")
        return origin

    def begin(self, connection: HTTPConnection) -> None:
        """Count a conversation that begins. Raises `Busy`."""
        client = connection.client
        self._starts.take(client.host if client else "", "one address")

    def speak(self, conversation: str) -> None:
        """Count a message. Raises `Busy`."""
        self._messages.take(conversation, "one conversation")

    def check_token(self, connection: HTTPConnection, bot: str, conversation: str) -> None:
        """Raise `Unauthorized` unless the request carries the conversation's token."""
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("the conversation's token is missing; send it as `Authorization: Bearer TOKEN`.")
        self._service.tokens.check(token.strip(), bot, conversation)


def _is_ours(connection: HTTPConnection, origin: str) -> bool:
    """Whether the page that asks came from this server; its own name, as the browser was told it, is in Host."""
    if connection.headers.get("sec-fetch-site") == "same-origin":
        return True
    return urlsplit(origin).netloc == connection.headers.get("host")


def _with_cors(door: _Door) -> type[APIRoute]:
    """Routes that tell an allowed site's page that it may read the answer, refusals too."""

    class CorsRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def handle(request: Request) -> Response:
                origin = ""
                try:
                    origin = await door.enter(request.path_params["bot"], request)
                    response = await answer(request)
                except HaechiError as error:
                    if not origin:
                        raise
                    status = error.status if isinstance(error, Refusal) else 400 if isinstance(error, BadInput) else 500
                    headers = error.headers if isinstance(error, Refusal) else {}
                    response = JSONResponse({"error": str(error)}, status, headers)
                response.headers["vary"] = "Origin"
                if origin:
                    response.headers["access-control-allow-origin"] = origin
                    response.headers["cross-origin-resource-policy"] = "cross-origin"
                return response

            return handle

    return CorsRoute


def _add_files(router: APIRouter, door: _Door) -> None:
    @router.get("/{bot}", response_class=HTMLResponse)
    async def page(bot: str, request: Request) -> Response:
        """The chat page."""
        pipeline = await door.pipeline(bot)
        settings = pipeline.bot.settings
        accepted = request.headers.get("accept-language", "").lower().split(",")
        wanted = (part.strip()[:2] for part in accepted)
        language = next((each for each in wanted if each in settings.languages), settings.language)
        title = in_language(settings.title, language) or bot
        text = _file("chat.html").format(language=language, title=html.escape(title), bot=html.escape(bot))
        return HTMLResponse(text, headers={"content-security-policy": _POLICY})

    @router.get("/{bot}/page.css", response_class=Response)
    async def css(bot: str) -> Response:
        """The page's own style sheet."""
        await door.pipeline(bot)
        return Response(_file("page.css"), media_type="text/css", headers=_SCRIPT_HEADERS)

    @router.get("/{bot}/widget.js", response_class=Response)
    async def widget(bot: str) -> Response:
        """The widget, with the bot's title and languages; any site may load it, and only allowed ones may use it."""
        settings = (await door.pipeline(bot)).bot.settings
        channel = settings.channels.get(CHANNEL) or Channel()
        about = {"bot": bot, "title": settings.title, "languages": settings.languages, "buttons": channel.buttons}
        return Response(_script(json.dumps(about)), media_type="text/javascript", headers=_SCRIPT_HEADERS)

    @router.options("/{bot}/{path:path}", include_in_schema=False)
    async def preflight(bot: str, path: str) -> Response:  # noqa: ARG001 (the route's parameters)
        return Response(status_code=204, headers=_ALLOWED)


def _add_talking(router: APIRouter, service: BotService, door: _Door) -> None:
    @router.post("/{bot}/conversations", response_model=StartAnswer, status_code=201)
    async def start(bot: str, body: PublicStartBody, request: Request) -> Any:
        door.begin(request)
        conversation = new_conversation()
        reply = await service.start(bot, conversation, CHANNEL, body.language)
        token = service.tokens.issue(bot, conversation)
        return {**reply_dict(reply, 0), "conversation": conversation, "token": token}

    @router.post("/{bot}/conversations/{conversation}/messages", response_model=ReplyAnswer, openapi_extra=_WITH_TOKEN)
    async def say(bot: str, conversation: str, body: MessageBody, request: Request) -> Any:
        door.check_token(request, bot, conversation)
        door.speak(conversation)
        reply = await service.reply(bot, conversation, Message(body.text, body.id, CHANNEL, body.language))
        return reply_dict(reply, await position_in(service, bot, conversation, reply))

    @router.get("/{bot}/conversations/{conversation}", response_model=TranscriptAnswer, openapi_extra=_WITH_TOKEN)
    async def look(bot: str, conversation: str, request: Request, after: _After = 0) -> Any:
        door.check_token(request, bot, conversation)
        return await transcript(service, bot, conversation, after)

    @router.post("/{bot}/conversations/{conversation}/feedback", status_code=204, openapi_extra=_WITH_TOKEN)
    async def feedback(bot: str, conversation: str, body: FeedbackBody, request: Request) -> None:
        door.check_token(request, bot, conversation)
        door.speak(conversation)
        await service.feedback(bot, conversation, body.message, body.value, body.note, CHANNEL)


def _add_socket(router: APIRouter, service: BotService, hub: Hub, door: _Door) -> None:
    @router.websocket("/{bot}/conversations/{conversation}/socket")
    async def socket(websocket: WebSocket, bot: str, conversation: str) -> None:
        await door.enter(bot, websocket)

        def check() -> None:
            door.speak(conversation)

        talk = Talk(service, hub, websocket, bot, conversation, channel=CHANNEL, check=check)
        await websocket.accept()
        try:
            first = await hello(websocket)
        except WebSocketDisconnect:
            return
        service.tokens.check(first.token, bot, conversation)
        await talk.run(first.after)


@functools.cache
def _file(name: str) -> str:
    return resources.files("solutions.contact_center").joinpath("web", name).read_text(encoding="utf-8")


def _script(about: str) -> str:
    """The script with its style sheet and what it must know of the bot: one request for the site that embeds it."""
    return _file("widget.js").replace("/*ABOUT*/ {}", about).replace('/*STYLE*/ ""', json.dumps(_file("widget.css")))
