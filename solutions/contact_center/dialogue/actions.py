"""What is done outside of the conversation: HTTP calls, and Python functions registered by name.

    @function("stock")
    def stock(arguments: Mapping[str, Any], context: ActionContext) -> Mapping[str, Any]:
        return {"left": 3}

An HTTP call sends its arguments as a JSON object (or in the query of GET and DELETE) with `Idempotency-Key`, which is
the same when the same step of the same turn is tried again, on whichever server. With `sign` it carries
`X-Haechi-Timestamp` and `X-Haechi-Signature: sha256=<hex>`, the HMAC-SHA256 (RFC 2104) of the timestamp, the method,
the path with its query, the key and the body, one a line. Connection failures, 429 and 5xx answers are tried again
after a jittered, doubling wait; nothing takes longer than the time-outs together.

Against server-side request forgery: only hosts that the action allows are called; the name is resolved once and that
very address is connected to, which must be public unless the host is an IP address or `localhost` that `allow` names in
so many words; redirects are followed three times at most, each checked the same way. Answers are JSON of at most
`MAX_ANSWER` bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from shared.errors import BadInput
from solutions.contact_center.config import ActionConfig, Http

MAX_ANSWER = 256 * 1024
MAX_REDIRECTS = 3
_FIRST_WAIT_S = 0.1
_WORTH_A_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_IN_QUERY = frozenset({"GET", "DELETE"})


@dataclass(frozen=True)
class ActionContext:
    """What a function may know besides its arguments."""

    conversation: str
    customer: str
    language: str
    time: str
    """ISO 8601, UTC: of the message. Use it instead of the clock, so that tests can set it."""
    key: str
    """The same when the same step of the same turn is tried again."""


@dataclass(frozen=True)
class ActionResult:
    """What came of an action; JSON throughout, for it goes into an event."""

    ok: bool
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    """For people who run the bot, not for customers."""
    status: int = 0
    attempts: int = 1
    latency_ms: float = 0.0


class ActionFailed(Exception):
    """A function could not do it; the message is for people who run the bot."""


ActionFunction = Callable[[Mapping[str, Any], ActionContext], Mapping[str, Any] | None]
ValidatorFunction = Callable[[Any, Mapping[str, Any], str], str | None]
_FUNCTIONS: dict[str, ActionFunction] = {}
_VALIDATORS: dict[str, ValidatorFunction] = {}


def function(name: str) -> Callable[[ActionFunction], ActionFunction]:
    """Register a Python function as an action; it returns a table (JSON), or raises `ActionFailed`."""

    def register(given: ActionFunction) -> ActionFunction:
        _FUNCTIONS[name] = given
        return given

    return register


def validator(name: str) -> Callable[[ValidatorFunction], ValidatorFunction]:
    """Register a Python function that checks a slot: (value, the other slots' values, language) to None or a reason."""

    def register(given: ValidatorFunction) -> ValidatorFunction:
        _VALIDATORS[name] = given
        return given

    return register


def validate_with(name: str, value: Any, slots: Mapping[str, Any], language: str) -> str | None:
    """None where the registered check holds, else its reason for the customer.

    Raises:
        BadInput: no check of that name is registered.
    """
    if name not in _VALIDATORS:
        raise BadInput(f"no validating function {name} is registered; register it with @validator({name!r}).")
    return _VALIDATORS[name](value, slots, language)


class Actions:
    """Runs actions. Thread-safe. `environment` holds the secrets; `sleep` waits between two tries."""

    def __init__(
        self,
        functions: Mapping[str, ActionFunction] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._functions = functions
        self._environment = os.environ if environment is None else environment
        self._sleep = sleep

    def run(self, config: ActionConfig, arguments: Mapping[str, Any], context: ActionContext) -> ActionResult:
        """Do it. Never raises: what goes wrong is in the result, and the bot says its fallback."""
        started = time.perf_counter()
        if config.http is not None:
            result = self._call(config.http, arguments, context)
        else:
            result = self._apply(config.function or "", arguments, context)
        return ActionResult(
            result.ok,
            result.result,
            result.error,
            result.status,
            result.attempts,
            round((time.perf_counter() - started) * 1000, 1),
        )

    def _apply(self, name: str, arguments: Mapping[str, Any], context: ActionContext) -> ActionResult:
        registered = (self._functions or {}).get(name) or _FUNCTIONS.get(name)
        if registered is None:
            return ActionResult(False, error=f"no function {name} is registered")
        try:
            result = json.loads(json.dumps(registered(dict(arguments), context) or {}, allow_nan=False))
        except ActionFailed as error:
            return ActionResult(False, error=str(error))
        except Exception as error:  # a customer's conversation must outlive a bug in a function
            return ActionResult(False, error=f"{name} raised {type(error).__name__}: {error}")
        if not isinstance(result, dict):
            return ActionResult(False, error=f"{name} returned a {type(result).__name__}, not a table")
        return ActionResult(True, result)

    def _call(self, config: Http, arguments: Mapping[str, Any], context: ActionContext) -> ActionResult:
        result = ActionResult(False, error="not tried")
        for attempt in range(1, config.retries + 2):
            try:
                result = self._once(config, arguments, context, attempt)
                if result.ok or result.status not in _WORTH_A_RETRY:
                    return result
            except _Refused as error:
                return ActionResult(False, error=str(error), attempts=attempt)
            except (OSError, http.client.HTTPException, ValueError) as error:
                result = ActionResult(False, error=f"{type(error).__name__}: {error}"[:300], attempts=attempt)
            if attempt <= config.retries:
                # full jitter, so that many conversations that failed together do not come back together
                self._sleep(random.uniform(0.5, 1.0) * _FIRST_WAIT_S * 2 ** (attempt - 1))  # noqa: S311
        return result

    def _once(self, config: Http, arguments: Mapping[str, Any], context: ActionContext, attempt: int) -> ActionResult:
        deadline = time.monotonic() + config.timeout_seconds
        url, body = config.url, b""
        if config.method in _IN_QUERY:
            query = urlencode({key: value for key, value in arguments.items() if value is not None})
            url += ("&" if urlsplit(url).query else "?") + query if query else ""
        else:
            body = json.dumps(arguments, ensure_ascii=False, sort_keys=True).encode("utf-8")
        for _ in range(MAX_REDIRECTS + 1):
            status, headers, content = self._exchange(config, url, body, context.key, deadline)
            if status not in (307, 308) and not (status in (301, 302, 303) and config.method == "GET"):
                return _answer(status, content, attempt)
            url = urljoin(url, headers.get("location", ""))
        return ActionResult(False, error=f"more than {MAX_REDIRECTS} redirects", status=status, attempts=attempt)

    def _exchange(
        self, config: Http, url: str, body: bytes, key: str, deadline: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or host not in {allowed.lower() for allowed in config.allow}:
            raise _Refused(f"{host or url!r} is not among the hosts that the action allows")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = _public_address(host, port)
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
        headers = {"Accept": "application/json", "Idempotency-Key": key, "User-Agent": "haechi", **config.headers}
        if config.method not in _IN_QUERY:
            headers["Content-Type"] = "application/json"
        if config.sign is not None:
            headers |= self._signature(config.sign, config.method, path, key, body)
        connection = _Pinned(host, port, address, parts.scheme == "https", _left(deadline))
        try:
            connection.request(config.method, path, body or None, headers)
            response = connection.getresponse()
            content = _bounded(response, connection, deadline)
            return response.status, {name.lower(): value for name, value in response.getheaders()}, content
        finally:
            connection.close()

    def _signature(self, name: str, method: str, path: str, key: str, body: bytes) -> dict[str, str]:
        secret = self._environment.get(name, "")
        if not secret:
            raise _Refused(f"the environment variable {name}, the secret to sign with, is not set")
        timestamp = str(int(time.time()))
        signed = b"\n".join([timestamp.encode(), method.encode(), path.encode(), key.encode(), body])
        digest = hmac.new(secret.encode("utf-8"), signed, hashlib.sha256).hexdigest()
        return {"X-Haechi-Timestamp": timestamp, "X-Haechi-Signature": f"sha256={digest}"}


class _Refused(Exception):
    """A call that must not be made, now or later."""


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that has been checked; the name is only for `Host` and the certificate."""

    def __init__(self, host: str, port: int, address: str, tls: bool, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._address = address
        self._tls = tls
        self.default_port = 443 if tls else 80  # so that `Host` leaves out the usual one

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _public_address(host: str, port: int) -> str:
    """The address to connect to. A name that resolves to a private one is refused; an address written out is not."""
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise OSError(f"{host} cannot be resolved: {error}") from error
    addresses = [str(address) for address in found]
    if host == "localhost" or _is_address(host):
        return addresses[0]
    if any(not ipaddress.ip_address(address.partition("%")[0]).is_global for address in addresses):
        raise _Refused(f"{host} leads to a private address; write the address itself into url and allow if it is meant")
    return addresses[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the action took too long")
    return left


def _bounded(response: http.client.HTTPResponse, connection: _Pinned, deadline: float) -> bytes:
    """The body, within its size and what is left of the time: a server that drips is cut off too."""
    content = b""
    while chunk := response.read1(16384):
        content += chunk
        if len(content) > MAX_ANSWER:
            raise _Refused(f"the answer is larger than {MAX_ANSWER} bytes")
        left = _left(deadline)
        if connection.sock is not None:
            connection.sock.settimeout(left)
    return content


def _answer(status: int, content: bytes, attempt: int) -> ActionResult:
    if not 200 <= status < 300:
        return ActionResult(False, error=f"the server answered {status}", status=status, attempts=attempt)
    if not content.strip():
        return ActionResult(True, {}, status=status, attempts=attempt)
    try:
        result = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return ActionResult(False, error="the answer is no JSON", status=status, attempts=attempt)
    if not isinstance(result, dict):
        return ActionResult(False, error="the answer is JSON, but no object", status=status, attempts=attempt)
    return ActionResult(True, result, status=status, attempts=attempt)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
