"""Listening for gRPC calls in the event loop of the HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.serving.state import ServerState

MOST_CALLS = 1024
"""Calls at one time, each stream being one; more are answered RESOURCE_EXHAUSTED."""
_ROOM = 64 * 1024
"""Bytes of a message beside its tensors."""


def choose(host: str, port: int) -> str:
    """The address host:port to answer gRPC calls at, so that what keeps it from being served is said before the start.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one.

    Raises:
        BadInput: the extra is not installed, or the port cannot be had.
    """
    if any(importlib.util.find_spec(name) is None for name in ("google", "grpc")):
        raise BadInput("--grpc-port needs the extra grpc: pip install 'haechi[grpc]'.")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(where)
            port = tried.getsockname()[1]
    except (OSError, OverflowError) as error:
        words = getattr(error, "strerror", None) or error
        raise BadInput(f"--grpc-port {port} on {host}: {words}; choose another port.") from error
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.asynccontextmanager
async def serving(state: ServerState, address: str, seconds: float) -> AsyncIterator[int]:
    """Answer gRPC calls while the block runs; the port, which counts where `address` asks for port 0.

    When the block ends, no call is taken any more, and those that are answered have `seconds` to come to their end.

    Raises:
        BadInput: the port cannot be had.
    """
    import grpc

    from shared.serving.rpc.service import Service

    service = Service(state)
    server = grpc.aio.server(
        maximum_concurrent_rpcs=MOST_CALLS,
        options=[
            ("grpc.max_receive_message_length", state.limits.max_upload_bytes + _ROOM),
            ("grpc.max_send_message_length", -1),
            # Several workers share the port; two servers must not, since nobody would know which answers.
            ("grpc.so_reuseport", int(state.options.place is not None)),
        ],
    )
    server.add_generic_rpc_handlers((service.handlers(),))
    tls = state.options.tls
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            pair = tls.key.read_bytes(), tls.cert.read_bytes()
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise BadInput(f"--grpc-port: {address} cannot be listened on; choose another port.") from error
    await server.start()
    try:
        yield port
    finally:
        service.end_streams()
        await asyncio.shield(server.stop(seconds))
        service.access.flush()
