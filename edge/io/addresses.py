"""Where pictures come from, as written in a site file, and how it may be spoken of.

`${NAME}` stands for an environment variable, so that passwords stay out of files. Whatever came from the environment,
and the user and password of a URL, is masked wherever an address is shown: in `str`, `repr`, errors and status.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from shared.errors import BadInput
from shared.log import MASK, mask

Kind = Literal["rtsp", "http", "usb", "folder", "file"]
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_USER = re.compile(r"(://)[^/\s@]*(?:@[^/\s@]*)*@")


@dataclass(frozen=True)
class Address:
    """A source that can be opened. Its text form is safe to log; only `url` holds the secrets."""

    kind: Kind
    shown: str
    url: str = field(repr=False)
    _secrets: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.shown

    def mask(self, text: object) -> str:
        """A message without this address's secrets: libraries like to put the whole URL into their errors."""
        said = str(text).replace(self.url, self.shown)
        for secret in self._secrets:
            said = said.replace(secret, MASK)
        return str(mask(_USER.sub(rf"\1{MASK}@", said)))


def parse(source: str) -> Address:
    """The address that a site file means.

    Raises:
        BadInput: an environment variable is not set, the scheme is unknown, or a file is not there.
    """
    url, secrets = _expanded(source)
    scheme = source.split("://", 1)[0].lower() if "://" in source else ""
    if scheme in ("rtsp", "rtsps", "http", "https"):
        try:
            parts = urlsplit(url)
            named = (parts.hostname, parts.port)  # the port is checked when it is read
        except ValueError:
            named = (None, None)
        if named[0] is None:
            raise BadInput(f"source {_without_user(source)} names no host and port; write {scheme}://HOST:PORT/PATH.")
        secrets += [part for part in (parts.username, parts.password) if part]
        secrets += [unquote(part) for part in secrets]
        kind: Kind = "rtsp" if scheme.startswith("rtsp") else "http"
        # A user called "a" must not star every "a" of a message; such a name is masked where a URL shows it.
        known = tuple(sorted({secret for secret in secrets if len(secret) > 2}, key=len, reverse=True))
        return Address(kind, _without_user(source), url, known)
    if scheme:
        raise BadInput(f"source {_without_user(source)} is of no known kind; use rtsp, rtsps, http or https.")
    if url.startswith("usb:") or url.startswith("/dev/video"):
        number = url.removeprefix("usb:").removeprefix("/dev/video")
        if not number.isascii() or not number.isdigit() or len(number) > 4:
            raise BadInput(f"source {source} names no camera of this machine; write usb:0 or /dev/video0.")
        return Address("usb", source, number)
    path = Path(url)
    if not path.exists():
        raise BadInput(f"source {source} is not there; give a file, a folder of frames, rtsp://…, http://… or usb:N.")
    return Address("folder" if path.is_dir() else "file", source, url)


def _expanded(source: str) -> tuple[str, list[str]]:
    """With the environment's values; those before the @ of a URL are quoted, so that a password may hold any sign."""
    secrets: list[str] = []
    user_ends = source.rfind("@") if "://" in source else -1

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise BadInput(f"source {_without_user(source)} needs the environment variable {match[1]}; set it.")
        secrets.append(found)
        if match.start() < user_ends:
            found = quote(found, safe="")
            secrets.append(found)
        return found

    return _VARIABLE.sub(value, source), [secret for secret in secrets if secret]


def _without_user(source: str) -> str:
    return str(mask(_USER.sub(rf"\1{MASK}@", source)))
