"""The console's shell: header, navigation, language, and the door in front of every page.

Pages are drawn with NiceGUI: a Python function builds the page, its events come back over a WebSocket. `console_for`
gives a router factory for `create_app` that takes every path no other router wants, so it comes last. The gate in
`middleware.py` has let only known people in by then, to the WebSocket as well; the login page is `login.py`'s. Sessions
end while pages are open, so that every event asks again who it is (`Visit.handler`).

NiceGUI keeps one application for the whole process. Pages are registered there once, and each request carries the
console it belongs to, so that servers may follow one another in a process; only one may show its console at a time.
Everything a page loads comes from this server: the content security policy lets the browser load nothing else. It does
allow inline scripts and `eval`, which NiceGUI's templates need; what people typed or files are called is always shown
as text, never as HTML.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import inspect
import zoneinfo
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote

from fastapi import APIRouter, FastAPI
from nicegui import core, ui
from nicegui.elements.mixins.text_element import TextElement
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send

from shared.errors import HaechiError
from shared.serving.auth import Headers, principal_of
from shared.serving.errors import ClientGone, Forbidden, Unauthorized
from shared.serving.keys import Principal, Role

if TYPE_CHECKING:
    from shared.serving.state import ServerState

Language = Literal["ko", "en"]
Words = tuple[str, str]
"""The same in Korean and in English."""

LANGUAGE_COOKIE = "haechi_language"
ZONE_COOKIE = "haechi_zone"
LANGUAGE_PATH = "/console/language/"
SOCKET_PATH = "/_nicegui_ws/"
_ASSETS = "/_nicegui/"
_SCOPE_KEY = "haechi.console"
_CSS = Path(__file__).with_name("console.css")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
LOGO = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#e0452f"/>'
    '<path d="M16 4.5c1.2 2 3.4 2.8 5 2.6-.3 1.3.2 2.3 1.2 3 2.4.6 4 2.6 4 5.4 0 6.4-4.4 11-10.2 12.6'
    'C10.2 26.5 5.8 21.900 5.8 15.5c0-2.8 1.6-4.8 4-5.400 1-.7 1.5-1.7 1.2-3 1.6.2 3.8-.6 5-2.6z" fill="#fff"/>'
    '<circle cx="12.2" cy="15.5" r="2.1" fill="#e0452f"/><circle cx="19.8" cy="15.5" r="2.1" fill="#e0452f"/>'
    '<path d="M11 21.2c3 2 7 2 10 0" stroke="#e0452f" stroke-width="1.8" fill="none" stroke-linecap="round"/></svg>'
)
# Tells the server the browser's time zone; the page is loaded once more on the very first visit.
_ZONE_SCRIPT = (
    "<script>(()=>{const has=()=>document.cookie.includes('" + ZONE_COOKIE + "=');const first=!has();"
    "document.cookie='" + ZONE_COOKIE + "='+encodeURIComponent(Intl.DateTimeFormat().resolvedOptions().timeZone)"
    "+';path=/;max-age=31536000;samesite=strict';if(first&&has())location.reload();})()</script>"
)
_SIGN_OUT: Words = ("로그아웃", "Sign out")
_NOT_FOUND: Words = ("이 페이지는 없습니다.", "There is no such page.")


@dataclass(frozen=True)
class ConsolePage:
    """One page of the console.

    Attributes:
        path: `/` or `/name`.
        title: in the navigation and the browser's title.
        build: draws the page below the header with `nicegui.ui`; may be a coroutine function.
        css: style sheets of its own.
    """

    path: str
    title: Words
    build: Callable[[Visit], Awaitable[None] | None]
    css: Sequence[Path] = ()


class Visit:
    """One open page: who looks at it, in which language and time zone."""

    def __init__(self, state: ServerState, request: Request) -> None:
        self.state = state
        self.query = dict(request.query_params)
        self._headers: Headers = dict(request.scope["headers"])
        self._cookies = _cookies(self._headers)
        principal = principal_of(request)
        if principal is None:
            raise Unauthorized("nobody is signed in.")
        self.principal: Principal = principal

    @functools.cached_property
    def language(self) -> Language:
        """The language chosen in the header, else the browser's first that is Korean or English."""
        chosen = self._cookies.get(LANGUAGE_COOKIE)
        if chosen in ("ko", "en"):
            return "ko" if chosen == "ko" else "en"
        for wanted in self._headers.get(b"accept-language", b"").decode("latin-1").lower().split(","):
            if wanted.strip().startswith(("ko", "en")):
                return "ko" if wanted.strip().startswith("ko") else "en"
        return "en"

    @functools.cached_property
    def zone(self) -> dt.tzinfo:
        """The browser's time zone, UTC where it is not known."""
        try:
            return zoneinfo.ZoneInfo(unquote(self._cookies.get(ZONE_COOKIE, "UTC")))
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            return dt.UTC

    def say(self, words: Words) -> str:
        """The words in this visit's language."""
        return words[0] if self.language == "ko" else words[1]

    def local_time(self, moment: dt.datetime) -> str:
        """A time as people at this browser write it; today's without the date."""
        local = moment.astimezone(self.zone)
        today = local.date() == dt.datetime.now(self.zone).date()
        return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")

    def may(self, role: Role) -> bool:
        """True if the visitor had this role when the page was opened; `check` asks again."""
        return self.principal.may(role)

    def check(self, role: Role) -> Principal:
        """The visitor, if the session is still valid and has the role.

        Raises:
            Unauthorized: the session has ended, by time, sign-out or revocation.
            Forbidden: the role does not suffice.
        """
        principal = self.state.auth.identify(self._headers)
        if principal is None:
            raise Unauthorized("the session has ended; sign in again.")
        if not principal.may(role):
            raise Forbidden(f"this needs the role {role}; {principal.name} is {principal.role}.")
        return principal

    def handler(self, role: Role, function: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
        """`function` as an event handler: checks the session first, and shows a `HaechiError` as a notice."""
        client = ui.context.client

        async def guarded(*event: Any) -> None:
            with client:  # the page, since the button that was pressed may be drawn anew meanwhile
                try:
                    await asyncio.to_thread(self.check, role)
                    outcome = function(*event)
                    if inspect.isawaitable(outcome):
                        await outcome
                except Unauthorized:
                    ui.navigate.to("/login")
                except HaechiError as error:
                    ui.notify(str(error), type="negative", multi_line=True, close_button=True, timeout=10_000)

        async def with_event(event: Any) -> None:
            await guarded(event)

        async def without_event() -> None:
            await guarded()

        # NiceGUI looks at the handler's parameters to know whether it wants the event
        return with_event if inspect.signature(function).parameters else without_event


PageFactory = Callable[["ServerState"], ConsolePage]


def console_for(pages: Sequence[PageFactory]) -> Callable[[ServerState], APIRouter]:
    """A router factory for `create_app`, to be given last.

    Args:
        pages: each is called with the state and gives one page; the navigation shows them in this order.
    """

    def router_for(state: ServerState) -> APIRouter:
        console = _Console(state, [page(state) for page in pages])
        router = APIRouter(lifespan=console.lifespan)
        router.routes.append(Route("/{path:path}", console, include_in_schema=False))
        router.routes.append(WebSocketRoute("/{path:path}", console))
        return router

    return router_for


class _Console:
    """The ASGI application behind every path that no other router takes."""

    _showing: _Console | None = None

    def __init__(self, state: ServerState, pages: Sequence[ConsolePage]) -> None:
        self.state = state
        self.pages = {page.path: page for page in pages}

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        if _Console._showing is not None:
            raise HaechiError("another server of this process shows its console already; stop it first.")
        _Console._showing = self
        try:
            application = _nicegui()
            for path in self.pages:
                _register(path)
            async with application.router.lifespan_context(application):
                yield
        finally:
            _Console._showing = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if scope["type"] == "websocket":
            if not path.startswith(SOCKET_PATH):
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
            await _nicegui()(scope, receive, send)
            return
        answer = self._answer(Request(scope))
        if answer is not None:
            await answer(scope, receive, send)
            return
        scope[_SCOPE_KEY] = self
        gone = False

        async def watched() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        try:
            await _nicegui()(scope, watched, _with_policy(send))
        except RuntimeError:
            if gone:  # a page that was left while it loaded; NiceGUI's middleware calls that an error
                raise ClientGone("the browser left before its page was complete.") from None
            raise

    def _answer(self, request: Request) -> Response | None:
        """What needs no NiceGUI, and what NiceGUI must not get; None for the rest."""
        path, method = request.url.path, request.method
        if path == "/favicon.ico" and method in ("GET", "HEAD"):
            return Response(LOGO, media_type="image/svg+xml", headers={"cache-control": "public, max-age=86400"})
        if principal_of(request) is None:
            return JSONResponse({"error": "a key is needed."}, 401)
        if path.startswith(SOCKET_PATH):
            # Its long-polling stands in for a WebSocket: a GET here begins a conversation, as no other GET does.
            self.state.auth.check_origin("WEBSOCKET", dict(request.scope["headers"]), principal_of(request))
            return None
        if method not in ("GET", "HEAD"):  # NiceGUI would take uploads here; pictures go through the API and its limits
            return JSONResponse({"error": f"nothing here takes {method}."}, 404)
        if path.startswith(LANGUAGE_PATH):
            return _choose_language(path.removeprefix(LANGUAGE_PATH), request)
        if path.startswith(_ASSETS) or path in self.pages:
            return None
        if "text/html" in request.headers.get("accept", ""):
            words = Visit(self.state, request).say(_NOT_FOUND)
            return HTMLResponse(f'<meta charset="utf-8"><p>{words} <a href="/">Haechi</a></p>', 404)
        return JSONResponse({"error": "there is nothing at this address."}, 404)

    async def draw(self, path: str, request: Request) -> None:
        """Build one page: head, header, and what the page itself draws."""
        visit, page = Visit(self.state, request), self.pages[path]
        ui.add_head_html(_ZONE_SCRIPT + f"<script>document.documentElement.lang='{visit.language}'</script>")
        ui.page_title(f"{visit.say(page.title)} · Haechi")
        for sheet in (_CSS, *page.css):
            ui.add_css(sheet.read_text(encoding="utf-8"))
        self._draw_header(visit, page)
        with ui.element("main").classes("hc-main"):
            outcome = page.build(visit)
            if inspect.isawaitable(outcome):
                await outcome

    def _draw_header(self, visit: Visit, page: ConsolePage) -> None:
        def link(words: str, target: str, here: bool) -> None:
            tag("a", "here" if here else "", words, href=target)

        with tag("header", "hc-header"):
            with tag("a", "hc-brand", href="/"):
                ui.html(LOGO, sanitize=False)
                tag("span", text="해치" if visit.language == "ko" else "Haechi")
            with tag("nav", "hc-nav"):
                for other in self.pages.values():
                    link(visit.say(other.title), other.path, other is page)
            with tag("div", "hc-tools"):
                with tag("div", "hc-language"):
                    back = quote(page.path, safe="")
                    link("한국어", f"{LANGUAGE_PATH}ko?back={back}", visit.language == "ko")
                    link("EN", f"{LANGUAGE_PATH}en?back={back}", visit.language == "en")
                with tag("span", "hc-who"):
                    tag("b", text=visit.principal.name)
                    tag("span", "role", f" · {visit.principal.role}")
                if visit.principal.kind == "session":
                    with tag("form", method="post", action="/logout"):
                        tag("button", text=visit.say(_SIGN_OUT), type="submit")


def tag(name: str, classes: str = "", text: str = "", **attributes: str) -> TextElement:
    """An HTML element at this place of the page. `text` is shown as it is, never read as HTML."""
    element = TextElement(tag=name, text=text)
    element.classes(classes)
    element.props.update(attributes)
    return element


@functools.cache
def _nicegui() -> FastAPI:
    """NiceGUI's application, set up once for this process."""
    core.sio.eio.cors_allowed_origins = []  # NiceGUI invites every site; see `_answer`
    holder = FastAPI(openapi_url=None)
    ui.run_with(
        holder,
        title="Haechi",
        favicon=LOGO,
        tailwind=False,  # its compiler would run in the browser at every visit; the style sheets are written by hand
        reconnect_timeout=10.0,
        show_welcome_message=False,
    )
    return holder


@functools.cache
def _register(path: str) -> None:
    """Let NiceGUI draw the page at `path` of whichever console the request belongs to."""

    @ui.page(path)
    async def draw(request: Request) -> None:
        console: _Console = request.scope[_SCOPE_KEY]
        await console.draw(path, request)


def _with_policy(send: Send) -> Send:
    """Add the console's own policies, which the gate would otherwise fill in with stricter ones."""

    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [
                *message.get("headers", ()),
                (b"content-security-policy", _POLICY.encode()),
                (b"referrer-policy", b"same-origin"),  # with no-referrer, browsers post forms with `Origin: null`
            ]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_policy


def _choose_language(language: str, request: Request) -> Response:
    """Remember the language in a cookie and go back to the page, which must be one of this server."""
    if language not in ("ko", "en"):
        return JSONResponse({"error": "the console speaks ko and en."}, 404)
    back = request.query_params.get("back", "/")
    local = back.startswith("/") and not back.startswith(("//", "/\\"))
    response = RedirectResponse(back if local else "/", 303)
    response.set_cookie(LANGUAGE_COOKIE, language, max_age=365 * 86400, path="/", samesite="strict")
    return response


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        jar = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}
