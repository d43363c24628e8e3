"""POST of each message as JSON, signed: the receiver can check who sent it, and when.

    X-Haechi-Timestamp: 1767225600
    X-Haechi-Signature: sha256=<hex HMAC-SHA-256 of "<timestamp>.<body>" with the secret>
    Idempotency-Key: <the same whenever the message is sent>

A receiver refuses what is older than some minutes, so that nobody can send a caught message again, and passes over a
key that it has seen.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import urlsplit

import httpx

from shared.errors import BadInput
from solutions.cctv.config import WebhookSink
from solutions.cctv.sinks.post import NotSent, Post, Refused, from_environment

_NEVER = (400, 413, 415, 422)
"""Answers that say that this message will never be taken; any other but 2xx may change."""


class Webhook:
    """Redirects are not followed: whoever answers may not say where events go.

    Raises:
        BadInput: the URL is none, or a variable of the environment is missing.
    """

    def __init__(self, config: WebhookSink) -> None:
        self.url = from_environment(config.url, "webhook.url") or ""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput("webhook.url is no http:// or https:// address; correct it in the site file.")
        self._shown = f"{parts.scheme}://{parts.hostname}"  # neither the password nor a token in the path
        secret = from_environment(config.secret, "webhook.secret")
        self._secret = None if secret is None else secret.encode()
        self._client = httpx.Client(timeout=config.timeout_s, follow_redirects=False, trust_env=False)

    def wants(self, _post: Post) -> bool:
        """All."""
        return True

    def send(self, post: Post) -> None:
        """Post it, and take any 2xx for arrived.

        Raises:
            NotSent: no answer, or one that may change.
            Refused: the receiver says that the message itself is wrong.
        """
        body = post.json
        headers = {"Content-Type": "application/json", "Idempotency-Key": post.key, "User-Agent": "haechi"}
        headers |= signature(self._secret, body, int(time.time()))
        try:
            with self._client.stream("POST", self.url, content=body, headers=headers) as answer:
                status = answer.status_code  # the body is not read: it may be of any length
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotSent(f"{self._shown} did not answer: {type(error).__name__}.") from error
        if 200 <= status < 300:
            return
        failure = Refused if status in _NEVER else NotSent
        raise failure(f"{self._shown} answered {status}; see its log.")

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()


def signature(secret: bytes | None, body: bytes, timestamp: int) -> dict[str, str]:
    """The headers that sign a body sent at a time (Unix seconds); without a secret, the time alone."""
    headers = {"X-Haechi-Timestamp": str(timestamp)}
    if secret is not None:
        digest = hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()
        headers["X-Haechi-Signature"] = f"sha256={digest}"
    return headers
