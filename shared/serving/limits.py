"""Bounds on what one request, and all requests together, may cost in memory and time."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge

from shared.errors import BadInput
from shared.serving.errors import ClientGone, Refusal, TooLarge

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """The server's bounds. The defaults suit pictures of up to 100 megapixels on a machine with 4 GiB."""

    max_upload_bytes: int = 64 * MIB
    """Largest body of one request, after decompression as well."""
    max_json_bytes: int = 16 * MIB
    """Largest JSON part of a body: a parsed number takes up to ten times its text. Larger tensors go as binary."""
    max_json_depth: int = 32
    """Deepest nesting of a tensor in JSON."""
    max_strings: int = 65_536
    """Elements of one BYTES tensor: each costs a microsecond and 50 bytes, however few bytes it came as."""
    max_unpacking: int = 250
    """Bytes that one byte of a compressed body may unpack to, from `free_unpacking` on. No picture is so empty."""
    free_unpacking: int = 16 * MIB
    """Compressed bodies up to this size, unpacked, may be as empty as they like."""
    max_pixels: int = 100_000_000
    """Largest picture, width times height; decoders check it in the file's header."""
    max_bytes_in_flight: int = 512 * MIB
    """All bodies being received or computed together; the next one is answered 429."""
    body_pause_seconds: float = 30.0
    """Longest silence of a client in the middle of its body."""
    queue_requests: int | None = None
    """Requests that may wait for one model; None: what it computes in 80 ms, from 8 to `most_waiting`."""
    most_waiting: int = 64
    queue_bytes: int = 256 * MIB
    """Bytes of inputs that may wait for one model or be computed by it."""


class Budget:
    """The bytes that the bodies of all requests together may hold in memory. For the event loop's thread alone.

    Args:
        most: bytes.
        gauge: shows how many are held.
    """

    def __init__(self, most: int, gauge: Gauge) -> None:
        self._most = most
        self.held = 0
        """Bytes held now."""
        gauge.set_function(lambda: self.held)

    def hold(self, size: int) -> bool:
        """Count bytes that are received; False if there is no room for them."""
        if self.held + size > self._most:
            return False
        self.held += size
        return True

    def release(self, size: int) -> None:
        """The request is over, its body no longer held."""
        self.held -= size


async def read_body(receive: Callable[[], Awaitable[Any]]) -> bytes | bytearray:
    """The whole body of a request; the gate around `receive` bounds its size (see `middleware.py`).

    A long body grows in place: joining its parts at the end would hold it in memory twice.

    Raises:
        ClientGone: the connection closed before the body was complete.
    """
    body: bytes | bytearray = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed its connection before its body was complete.")
        chunk = message.get("body", b"")
        if not body:
            body = chunk
        elif chunk:
            body = body if isinstance(body, bytearray) else bytearray(body)
            body += chunk
        if not message.get("more_body", False):
            return body


class UnsupportedEncoding(Refusal):
    """A Content-Encoding that this server does not read."""

    status = 415


def decompress(body: bytes | bytearray | memoryview, encoding: str, limits: Limits) -> bytes | bytearray | memoryview:
    """`body` without its Content-Encoding: identity, gzip or deflate. It stops at the limits, whatever was promised.

    Raises:
        BadInput: the compressed data is damaged or cut off.
        TooLarge: it unpacks to more than `max_upload_bytes`, or than `max_unpacking` times its size.
        UnsupportedEncoding: any other encoding.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise UnsupportedEncoding(f"Content-Encoding {encoding[:40]} is not supported; send gzip, deflate or none.")
    limit = min(limits.max_upload_bytes, max(limits.free_unpacking, len(body) * limits.max_unpacking))
    reader = zlib.decompressobj(wbits=47)  # 32 + 15: takes the gzip header or the zlib one, whichever is there
    try:
        content = reader.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadInput(f"the body is not valid {encoding}: {error}.") from error
    if len(content) > limit:
        mend = "send it uncompressed" if limit < limits.max_upload_bytes else "send smaller requests"
        raise TooLarge(f"the body unpacks to more than {limit} bytes; {mend}.")
    if not reader.eof:
        raise BadInput(f"the {encoding} body ends too early; send it whole.")
    return content
