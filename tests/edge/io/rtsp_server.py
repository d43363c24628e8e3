"""A small RTSP server for tests: H.264 and HEVC over interleaved TCP (RFC 2326, 6184, 7798), and all that goes wrong.

While it serves, a test may let it stall, send garbage, play another clip without saying so, or break it off and start
it again on the same port.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Literal, Self

from tests.edge.io.pictures import Clip

_MTU = 1400
_REALM, _NONCE = "cameras", "5ccc069c403ebaf9f0171e9517f40e41"
Mode = Literal["play", "stall", "garbage", "noise"]


class RtspServer:
    """Serves one clip to whoever asks, from the first picture on."""

    def __init__(self, clip: Clip, *, user: str = "", password: str = "", digest: bool = True) -> None:
        self.clip = clip
        self.mode: Mode = "play"
        self.speed = 1.0
        self.user, self.password, self.digest = user, password, digest
        self.connections = 0
        self.port = 0
        self._listener: socket.socket | None = None
        self._clients: list[socket.socket] = []
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"rtsp://127.0.0.1:{self.port}/stream"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Break everything off, as a camera without power."""
        assert self._listener is not None
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.shutdown(socket.SHUT_RDWR)
            client.close()
        self._clients.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client, client.makefile("rb") as lines:
            while request := _request(lines):
                method, address, headers = request
                if not self._known(method, headers):
                    _answer(client, headers, "401 Unauthorized", [self._challenge()])
                elif method == "DESCRIBE":
                    _answer(client, headers, "200 OK", [f"Content-Base: {address}/"], self._description())
                elif method == "SETUP":
                    transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
                    _answer(client, headers, "200 OK", [transport, "Session: 1234;timeout=60"])
                elif method == "PLAY":
                    _answer(client, headers, "200 OK", ["Session: 1234"])
                    self.connections += 1
                    self._play(client)
                else:
                    _answer(client, headers, "200 OK", ["Public: DESCRIBE, SETUP, PLAY, TEARDOWN, OPTIONS"])

    def _challenge(self) -> str:
        if self.digest:
            return f'WWW-Authenticate: Digest realm="{_REALM}", nonce="{_NONCE}"'
        return f'WWW-Authenticate: Basic realm="{_REALM}"'

    def _known(self, method: str, headers: dict[str, str]) -> bool:
        if not self.user or method == "OPTIONS":
            return True
        given = headers.get("authorization", "")
        if not self.digest:
            import base64

            return given == "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        fields = dict(re.findall(r'(\w+)="([^"]*)"', given))
        one = _md5(f"{self.user}:{_REALM}:{self.password}")
        two = _md5(f"{method}:{fields.get('uri', '')}")
        return fields.get("username") == self.user and fields.get("response") == _md5(f"{one}:{_NONCE}:{two}")

    def _description(self) -> str:
        name = {"h264": "H264", "hevc": "H265"}[self.clip.codec]
        lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=test", "t=0 0", "a=control:*", "m=video 0 RTP/AVP 96"]
        lines += [f"a=rtpmap:96 {name}/90000", "a=control:track0"]
        if name == "H264":
            lines.insert(-1, "a=fmtp:96 packetization-mode=1")
        return "\r\n".join(lines) + "\r\n"

    def _play(self, client: socket.socket) -> None:
        """Send pictures at their rate; another clip begins at once, at its first picture, in the same RTP stream."""
        clip, place, sent, number, noise = self.clip, 0, 0, 0, random.Random(7)
        began, stamp = time.monotonic(), 0.0
        while True:
            if clip is not self.clip:
                clip, place = self.clip, 0
            picture = clip.pictures[place % len(clip.pictures)]
            place, stamp = place + 1, stamp + 1 / clip.fps
            time.sleep(max(0.0, began + stamp / self.speed - time.monotonic()))
            if self.mode == "stall":
                continue
            if self.mode == "noise":  # not even RTP
                client.sendall(noise.randbytes(2000))
                continue
            for payload, last in _payloads(picture.data, clip.codec):
                if self.mode == "garbage":
                    payload = payload[:2] + noise.randbytes(len(payload) - 2)
                header = struct.pack("!BBHII", 0x80, 96 | last << 7, number & 0xFFFF, int(stamp * 90_000), 77)
                client.sendall(struct.pack("!cBH", b"$", 0, len(header) + len(payload)) + header + payload)
                number += 1
            sent += 1


def _request(lines: object) -> tuple[str, str, dict[str, str]] | None:
    first = lines.readline().decode("latin-1").split()  # type: ignore[attr-defined]
    if len(first) != 3:
        return None
    headers = {}
    while line := lines.readline().decode("latin-1").strip():  # type: ignore[attr-defined]
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return first[0], first[1], headers


def _answer(client: socket.socket, headers: dict[str, str], state: str, more: list[str], body: str = "") -> None:
    lines = [f"RTSP/1.0 {state}", f"CSeq: {headers.get('cseq', '0')}", *more]
    if body:
        lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
    client.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())


def _payloads(data: bytes, codec: str) -> list[tuple[bytes, bool]]:
    """RTP payloads of a picture and whether each is its last: whole NAL units, or fragments of large ones."""
    units = [unit.rstrip(b"\x00") for unit in re.split(rb"\x00\x00\x00?\x01", data) if unit]
    payloads = []
    head = 1 if codec == "h264" else 2
    for unit in units:
        if len(unit) <= _MTU:
            payloads.append(unit)
            continue
        pieces = [unit[at : at + _MTU] for at in range(head, len(unit), _MTU)]
        for place, piece in enumerate(pieces):
            edge = (place == 0) << 7 | (place == len(pieces) - 1) << 6
            if codec == "h264":
                lead = bytes([unit[0] & 0xE0 | 28, edge | unit[0] & 0x1F])
            else:
                lead = bytes([unit[0] & 0x81 | 49 << 1, unit[1], edge | unit[0] >> 1 & 0x3F])
            payloads.append(lead + piece)
    return [(payload, place == len(payloads) - 1) for place, payload in enumerate(payloads)]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
