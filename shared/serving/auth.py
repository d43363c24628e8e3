"""Who may do what: the server's door.

Every path asks for a key or a console session, except the health probes and the login page. A route then names the
role it needs: `principal: Annotated[Principal, Depends(state.require("operator"))]`. A program sends its key as
`Authorization: Bearer KEY` or `X-Api-Key: KEY`; a browser holds a session in a cookie that scripts cannot read
(HttpOnly) and that other sites' pages cannot use: SameSite=Strict keeps it from them, and writes and WebSockets are
refused when the browser says that another site's page sends them. There is no token in the forms beside that, since it
would guard against nothing more: every browser that leaves out `Sec-Fetch-Site` and `Origin` (those before 2020) heeds
SameSite, and whoever could make a browser lie about them runs inside our own pages, where a token could be read. Over
HTTPS the cookie is Secure and called `__Host-…`, so that no neighbouring host, and nothing unencrypted, can set it.
With `--no-auth` everyone is the administrator; then only names of this machine are accepted as Host, since otherwise a
web page anywhere could reach the server through the visitor's own browser (DNS rebinding).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import Response

from shared.serving.errors import Forbidden, Unauthorized
from shared.serving.keys import LINK_SECONDS, SESSION_SECONDS, KeyStore, Principal, Role, check_role

COOKIE = "haechi_session"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""Its name over HTTPS."""
PROBE_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that are answered to anyone, whatever else is wrong."""
PUBLIC_PATHS = PROBE_PATHS | {"/login", "/favicon.ico"}
"""Paths that are answered without a key."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SCOPE_KEY = "haechi.principal"
_LOCAL = Principal("local", "admin", "local")

Headers = dict[bytes, bytes]


class Auth:
    """Checks requests against a `KeyStore`.

    Args:
        store: the credentials.
        enabled: False for `--no-auth`.
        https: True when every connection to this server is encrypted.
    """

    def __init__(self, store: KeyStore, *, enabled: bool = True, https: bool = False) -> None:
        self.store = store
        self.enabled = enabled
        self.https = https
        self._open: tuple[str, ...] = ()

    def open_to_all(self, prefix: str) -> None:
        """Let strangers in below a path such as `/chat/`, for routes that guard themselves.

        Nobody is known there, whatever cookie or key they send, and pages of other sites may write: what such a route
        does must rest on nothing but what the request itself proves.
        """
        self._open = (*self._open, prefix)

    def is_open(self, path: str) -> bool:
        """Whether `open_to_all` holds for this path."""
        return bool(self._open) and path.startswith(self._open)

    def has_admin(self) -> bool:
        """True once there is a valid admin key; until then nobody could manage this server."""
        now = time.time()
        return any(key.role == "admin" and key.valid(now) for key in self.store.all_keys())

    def one_time_link(self, base_url: str, *, name: str = "admin", role: Role = "admin") -> str:
        """A link that opens one console session with `role`; valid once and for 15 minutes."""
        token = self.store.create(name, role, kind="link", seconds=LINK_SECONDS)
        return f"{base_url.rstrip('/')}/login?token={quote(token)}"

    def identify(self, headers: Headers) -> Principal | None:
        """Who sent these headers; None if they hold nothing valid. A key counts before a cookie."""
        if not self.enabled:
            return _LOCAL
        key = _key_of(headers)
        if key is not None:
            return self.store.verify(key, "key")
        token = self._cookie_of(headers)
        return self.store.verify(token, "session") if token else None

    def check_origin(self, method: str, headers: Headers, principal: Principal | None) -> None:
        """Refuse what another site's page makes a browser send.

        Raises:
            Forbidden: a write (or a WebSocket, `method` "WEBSOCKET") with a foreign Origin, or, with `--no-auth`, a
                Host that is not this machine.
        """
        self.check_host(headers)
        host = headers.get(b"host", b"").decode("latin-1")
        if method in _SAFE_METHODS or (principal is not None and principal.kind == "key"):
            return
        # Browsers tell the relation themselves over HTTPS and on localhost, whatever a proxy made of Host; else Origin
        # must name our Host.
        site = headers.get(b"sec-fetch-site")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if site:
            ours = site in (b"same-origin", b"none")
        else:
            ours = origin in ("", f"https://{host}") or (not self.https and origin == f"http://{host}")
        if not ours:
            raise Forbidden("a page of another site may not write here.")

    def check_host(self, headers: Headers) -> None:
        """Refuse a foreign name of this machine where no keys are asked for.

        Raises:
            Forbidden: with `--no-auth`, a Host that is not this machine.
        """
        host = headers.get(b"host", b"").decode("latin-1")
        if not self.enabled and _hostname(host) not in LOCAL_NAMES:
            raise Forbidden("with --no-auth only localhost may be addressed; use http://127.0.0.1 or http://localhost.")

    def require(self, role: Role) -> Callable[[HTTPConnection], Awaitable[Principal]]:
        """A FastAPI dependency that gives the `Principal` and refuses lower roles with 403, strangers with 401."""
        needed = check_role(role)

        async def principal_with_role(connection: HTTPConnection) -> Principal:
            return authorize(connection, needed)

        return principal_with_role

    def session_user(self, connection: HTTPConnection) -> Principal | None:
        """The person at the browser, by their session (`local` with `--no-auth`); None for keys and strangers."""
        principal = principal_of(connection)
        return principal if principal is not None and principal.kind in ("session", "local") else None

    def log_in(self, response: Response, token: str, *, secure: bool) -> None:
        """Give the browser a session's token as its cookie; `secure` when the page came over HTTPS."""
        name = SECURE_COOKIE if secure else COOKIE
        response.set_cookie(
            name, token, max_age=SESSION_SECONDS, path="/", secure=secure, httponly=True, samesite="strict"
        )

    def log_out(self, connection: HTTPConnection, response: Response) -> None:
        """End the session of this browser, here and in its cookie."""
        principal = principal_of(connection)
        if principal is not None and principal.kind == "session":
            self.store.revoke(principal.id)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        response.delete_cookie(SECURE_COOKIE, path="/", secure=True, httponly=True, samesite="strict")

    def _cookie_of(self, headers: Headers) -> str | None:
        header = headers.get(b"cookie")
        if header is None or COOKIE.encode() not in header:
            return None
        cookies = cookie_parser(header.decode("latin-1"))
        return cookies.get(SECURE_COOKIE) or (None if self.https else cookies.get(COOKIE))


def remember(scope: Any, principal: Principal | None) -> None:
    """Note in an ASGI scope who sent the request."""
    scope[_SCOPE_KEY] = principal


def principal_of(connection: HTTPConnection) -> Principal | None:
    """Who sent this request, as the gate found; None on public paths for strangers."""
    principal = connection.scope.get(_SCOPE_KEY)
    return principal if isinstance(principal, Principal) else None


def authorize(connection: HTTPConnection, role: Role) -> Principal:
    """The principal of a request if it has `role` or a higher one; see `allow`."""
    return allow(principal_of(connection), role)


def allow(principal: Principal | None, role: Role) -> Principal:
    """`principal` if it has `role` or a higher one.

    Raises:
        Unauthorized: nobody is known.
        Forbidden: the role does not suffice.
    """
    if principal is None:
        raise Unauthorized("a key is needed: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`.")
    if not principal.may(role):
        raise Forbidden(f"this needs the role {role}; {principal.name} is {principal.role}.")
    return principal


def _key_of(headers: Headers) -> str | None:
    value = headers.get(b"x-api-key")
    if value is not None:
        return value.decode("latin-1").strip()
    scheme, _, rest = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else None


def _hostname(host: str) -> str:
    """The name in a Host header, without its port; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
