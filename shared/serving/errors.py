"""What the server refuses and why. Each error carries the HTTP status that a client sees beside its sentence.

`BadInput` is 400 throughout; these are the others. Routes raise them, `app.py` turns them into `{"error": message}`.
"""

from __future__ import annotations

from shared.errors import HaechiError


class Refusal(HaechiError):
    """A request that is answered with a status other than 200 or 400."""

    status = 500

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the answer, `Retry-After` for one."""
        return {}


class NotFound(Refusal):
    """No such model, version or record."""

    status = 404


class Unauthorized(Refusal):
    """No key, or one that is unknown, expired or revoked."""

    status = 401

    @property
    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer"}


class Forbidden(Refusal):
    """The key is known, its role does not suffice."""

    status = 403


class TooLarge(Refusal):
    """More bytes than `Limits` allows."""

    status = 413


class Busy(Refusal):
    """The queue is full: come back after `retry_after` seconds."""

    status = 429

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self.retry_after)}


class DeadlinePassed(Refusal):
    """The request was admitted, and its deadline passed before its turn came."""

    status = 504


class Unavailable(Refusal):
    """The model is loading, has failed, or the server is stopping."""

    status = 503

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": "1"}


class NotImplementedHere(Refusal):
    """A part of the protocol that this server does not have."""

    status = 501


class ModelFailed(Refusal):
    """The model cannot even compute its own golden samples: the fault is ours, not the request's."""

    status = 500


class ClientGone(Refusal):
    """The client closed its connection. Nobody reads this answer, but the log has it (499, as in nginx)."""

    status = 499
