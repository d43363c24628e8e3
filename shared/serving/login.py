"""The way into the console: a one-time link, or a key typed into a form, becomes a session in a cookie."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from shared.errors import BadInput
from shared.serving import openapi
from shared.serving.auth import principal_of
from shared.serving.keys import id_of
from shared.serving.limits import read_body
from shared.serving.state import ServerState

HOME = "/"
_ANSWERS: dict[int | str, dict[str, Any]] = {
    303: {"description": "Signed in: the console is there."},
    401: {"description": "The form again, with what was wrong.", "content": {"text/html": {}}},
}

_PAGE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Haechi – {title}</title><style>
body{{font:16px/1.5 system-ui,sans-serif;margin:0;min-height:100vh;display:grid;place-items:center;
background:#f4f5f7;color:#1c2430}}
main{{background:#fff;padding:2rem 2.5rem;border-radius:10px;box-shadow:0 1px 6px #0002;width:min(24rem,80vw)}}
h1{{font-size:1.3rem;margin:0 0 1rem}} label{{display:block;margin-bottom:.3rem}}
input,button{{font:inherit;width:100%;box-sizing:border-box;padding:.55rem;border-radius:6px;border:1px solid #8a94a3}}
button{{margin-top:1rem;background:#1f5fbf;border-color:#1f5fbf;color:#fff;cursor:pointer}}
.error{{color:#a3221b}} .hint{{color:#55606e;font-size:.9rem}}
</style></head><body><main><h1>Haechi</h1>{message}
<form method="post" action="/login"><label for="key">{label}</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<button type="submit">{title}</button></form>
<p class="hint">{hint}</p></main></body></html>"""

_WORDS: dict[str, dict[str, str]] = {
    "en": {
        "title": "Sign in",
        "label": "API key",
        "hint": "No key at hand? On the server, <code>haechi serve --admin-link</code> prints a link that opens this "
        "console once.",
        "link": "This link has been used or has expired. Make a new one, or sign in with a key.",
        "key": "This key is unknown, expired or revoked.",
    },
    "ko": {
        "title": "로그인",
        "label": "API 키",
        "hint": "키가 없으면 서버에서 <code>haechi serve --admin-link</code>를 실행하세요. 이 콘솔을 한 번 여는 링크가 "
        "나옵니다.",
        "link": "이미 사용했거나 만료된 링크입니다. 새 링크를 만들거나 키로 로그인하세요.",
        "key": "알 수 없거나 만료되었거나 폐기된 키입니다.",
    },
}


def login_router(state: ServerState) -> APIRouter:
    """GET and POST /login, POST /logout."""
    router = APIRouter(tags=["console"])

    @router.get("/login", response_class=HTMLResponse, responses=_ANSWERS)
    async def open_link(request: Request, token: str = "") -> Response:
        """The form; with the token of a one-time link, straight into the console."""
        if not token:
            return RedirectResponse(HOME, 303) if principal_of(request) is not None else _form(request)
        redeemed = await asyncio.to_thread(state.auth.store.redeem, token)
        if redeemed is None:
            return _form(request, "link", 401)
        principal, session = redeemed
        await state.audit(principal.name, "login", "one-time link", session=principal.id)
        return _enter(state, request, session)

    @router.post(
        "/login",
        response_class=RedirectResponse,
        status_code=303,
        responses=_ANSWERS,
        openapi_extra=openapi.body({"key": {"type": "string"}}, "application/x-www-form-urlencoded"),
    )
    async def use_key(request: Request) -> Response:
        """A key from the form becomes a session with the key's role."""
        try:
            fields = parse_qs((await read_body(request.receive)).decode("ascii"), max_num_fields=10)
        except ValueError as error:  # not ASCII, or too many fields
            raise BadInput("the login form is damaged; open /login and try again.") from error
        key = fields.get("key", [""])[0].strip()
        begun = await asyncio.to_thread(state.auth.store.begin_session, key)
        if begun is None:
            return _form(request, "key", 401)
        principal, session = begun
        await state.audit(principal.name, "login", f"key {id_of(key)}", session=principal.id)
        return _enter(state, request, session)

    @router.post("/logout", response_class=RedirectResponse, status_code=303)
    async def log_out(request: Request) -> Response:
        """End this browser's session."""
        response = RedirectResponse("/login", 303)
        await asyncio.to_thread(state.auth.log_out, request, response)
        return response

    return router


def _enter(state: ServerState, request: Request, session: str) -> Response:
    response = RedirectResponse(HOME, 303)
    state.auth.log_in(response, session, secure=request.url.scheme == "https")
    return response


def _form(request: Request, trouble: str = "", status: int = 200) -> Response:
    """The page, in the browser's first language that is Korean or English; `trouble` names what to say in red."""
    wanted = (part.strip()[:2] for part in request.headers.get("accept-language", "").lower().split(","))
    language = next((each for each in wanted if each in _WORDS), "en")
    words = _WORDS[language]
    message = f'<p class="error" role="alert">{words[trouble]}</p>' if trouble else ""
    page = _PAGE.format(language=language, message=message, **{key: words[key] for key in ("title", "label", "hint")})
    return HTMLResponse(page, status)
