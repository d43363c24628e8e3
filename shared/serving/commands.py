"""`haechi serve`: the server's command line. `solutions` passes in the routers; heavy imports are inside functions."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.serving.app import RouterFactory
    from shared.serving.auth import Auth
    from shared.serving.keys import KeyStore, Role
    from shared.serving.state import ServerOptions, ServerState

DEFAULT_PORT = 8000
WHO = "command line"
"""Who has made or revoked a key, in the audit records."""
_DAY = 24 * 3600

HELP = """Serve model packages over HTTP, with the console.

Programs speak the Open Inference Protocol v2 (Triton's clients work) at /v2/models/NAME/infer, or ask for decisions at
/api/inspection/inspect; people open the address in a browser. Without --packages the registry's champions are served.

Every request needs a key. Until there is an admin key, each start prints a link that opens the console once, as
administrator. Make a key for a factory's program, and send a picture with it:

\b
  haechi serve keys create line3 --role operator
  curl -H "X-Api-Key: $KEY" -F image=@part.png \\
    http://127.0.0.1:8000/api/inspection/inspect

Only this machine is served until --host names another address; give --tls-cert and --tls-key with it. Ready:
GET /v2/health/ready; metrics: GET /metrics.
"""


Packages = Annotated[list[Path], typer.Option("--packages", help="A package, or a folder of them; may be repeated.")]
FromRegistry = Annotated[
    bool | None,
    typer.Option("--registry/--no-registry", help="Serve the registry's champions (default: when no --packages)."),
]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every network of this machine.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
GrpcPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Answer gRPC calls too (GRPCInferenceService, as KServe and Triton have it, usually at 8001); 0 takes a "
        "free port. Needs the extra grpc. Default: no gRPC.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads for one inference (default: measured).")]
Queue = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Requests that may wait for one model; more are answered 429 "
        "(default: what is computed in 80 ms, from 8 to 64).",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Milliseconds in which a request wants its answer that names no timeout itself; what cannot be answered "
        "in time is refused at once (default: it waits).",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(min=0.01, help="Requests a second for each key; more are answered 429 (default: no limit)."),
]
MaxUpload = Annotated[int, typer.Option(min=1, metavar="MIB", help="Largest request body.")]
TlsCert = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Serve HTTPS with this certificate, in PEM form, its issuers after it."),
]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's private key, in PEM form.")]
Workers = Annotated[
    int,
    typer.Option(
        min=1,
        max=64,
        help="Processes that answer side by side, for machines with many cores; one that ends is replaced. The "
        "console is then at the next port.",
    ),
]
Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Compute on a Ray cluster: the one that --ray-address or RAY_ADDRESS names, or one started on this "
        "machine. Needs the extra cluster.",
    ),
]
RayAddress = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The Ray cluster; auto is the one on this machine.")
]
RayReplicas = Annotated[
    int | None,
    typer.Option(min=1, help="Most replicas of one model on the cluster (default: one for each CPU but one)."),
]
Trace = Annotated[
    bool,
    typer.Option("--trace", help="Export OpenTelemetry traces; OTEL_* variables say where, and switch it on too."),
]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Ask for no keys. Only while --host is this machine.")]
AdminLink = Annotated[bool, typer.Option("--admin-link", help="Print a link that opens the console once.")]
CreateKey = Annotated[str, typer.Option(metavar="NAME:ROLE", help="Print a new key. Roles: see keys create.")]


def register(app: typer.Typer, routers: Callable[[], Sequence[RouterFactory]] | None = None) -> None:
    """Make `app` the command `serve` and its verbs.

    Args:
        app: an empty Typer application.
        routers: gives the solutions' router factories; called when the server starts, so it may import what is heavy.
    """
    app.callback(invoke_without_command=True, help=HELP, context_settings={"obj": routers})(serve)
    app.add_typer(_keys_app(), name="keys")


def serve(
    context: typer.Context,
    packages: Packages = [],  # noqa: B006 (typer copies it)
    registry: FromRegistry = None,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    grpc_port: GrpcPort = None,
    threads: Threads = None,
    queue: Queue = None,
    timeout_ms: Timeout = None,
    rate: Rate = None,
    max_upload: MaxUpload = 64,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    workers: Workers = 1,
    ray: Ray = False,
    ray_address: RayAddress = None,
    ray_replicas: RayReplicas = None,
    trace: Trace = False,
    no_auth: NoAuth = False,
    admin_link: AdminLink = False,
    create_key: CreateKey = "",
) -> None:
    if context.invoked_subcommand is not None:
        return
    if create_key:
        from shared.serving.keys import parse_name_and_role

        _print_new_key(*parse_name_and_role(create_key))
    elif admin_link:
        scheme = "http" if tls_cert is None else "https"
        typer.echo(_auth().one_time_link(f"{scheme}://{_in_url(host)}:{port}"))
    else:
        from shared.serving.cluster import OnRay
        from shared.serving.limits import MIB, Limits
        from shared.serving.rpc import server as rpc
        from shared.serving.state import ServerOptions
        from shared.serving.tls import Certificate

        options = ServerOptions(
            packages,
            registry,
            threads,
            auth=not no_auth,
            limits=Limits(queue_requests=queue, max_upload_bytes=max_upload * MIB),
            timeout_ms=timeout_ms,
            rate=rate,
            grpc=None if grpc_port is None else rpc.choose(host, grpc_port),
            tls=Certificate.of(tls_cert, tls_key),
            ray=OnRay.of(ray, ray_address, ray_replicas, workers),
            trace=trace,
        )
        run(options, host, port, context.obj() if context.obj else (), workers)


def run(
    options: ServerOptions,
    host: str,
    port: int,
    routers: Sequence[RouterFactory],
    workers: int = 1,
    greet: Callable[[str], None] | None = None,
) -> None:
    """Serve until a signal asks to stop.

    Args:
        greet: called with the server's address once it is known, after the usual lines are printed.

    Raises:
        BadInput: everyone could come in, or the port cannot be used.
        HaechiError: a package cannot be loaded.
    """
    from shared import log
    from shared.serving import server
    from shared.serving.workers import Place, supervise

    if not options.auth and not server.is_loopback(host):
        raise BadInput(f"--no-auth with --host {host} would let anyone in; leave one of them out.")
    log.configure()
    with server.bind(host, port) as listener:
        if workers == 1:
            _work(options, routers, host, greet, listener)
            return
        with _bind_beside(host, listener) as console:

            def work(place: Place) -> None:
                _share_cores(workers)
                listeners = (listener, console) if place.index == 0 else (listener,)
                _work(replace(options, place=place), routers, host, greet, *listeners)

            code = supervise(workers, console, work)
    if code:
        sys.exit(code)  # the worker has said why


def _work(
    options: ServerOptions,
    routers: Sequence[RouterFactory],
    host: str,
    greet: Callable[[str], None] | None,
    *listeners: socket.socket,
) -> None:
    """Serve in this process, and say so if nobody has."""
    from shared.serving import server
    from shared.serving.app import create_app, state_of

    app = create_app(options, routers=routers)
    if options.place is None or (options.place.index == 0 and not options.place.again):
        tls = options.tls is not None
        urls = [server.url_of(each, tls=tls) for each in listeners]
        _greet(state_of(app), host, *urls)
        if greet is not None:
            greet(urls[0])
    server.run(app, *listeners)


def _bind_beside(host: str, listener: socket.socket) -> socket.socket:
    """A socket at the next port, or at a free one."""
    from shared.serving import server

    try:
        return server.bind(host, listener.getsockname()[1] + 1)
    except BadInput:
        return server.bind(host, 0)


def _share_cores(workers: int) -> None:
    """Each worker process plans with its share of the cores."""
    from shared import runtime, settings

    os.environ["HAECHI_THREADS"] = str(max(1, runtime.default_threads() // workers))
    settings.load.cache_clear()  # the supervisor has read them already, and this process is another one


def _greet(state: ServerState, host: str, url: str, console: str = "") -> None:
    from shared.serving import server

    options = state.options
    names = ", ".join(f"{served.name} {served.version}" for served in state.models.values())
    typer.echo(f"Haechi serves {names or 'no model yet'} at {url}")
    if console:
        typer.echo(f"The console is at {console}")
    if options.grpc is not None:
        typer.echo(f"gRPC calls are answered at {options.grpc}")
    if not options.auth:
        typer.echo("warning: --no-auth: every program on this machine has all rights.", err=True)
    elif options.tls is None and not server.is_loopback(host):
        typer.echo("warning: keys travel unencrypted; give --tls-cert and --tls-key on shared networks.", err=True)
    if not names:
        typer.echo("hint: train one with `haechi inspection train`, then name it with --packages.", err=True)
    if options.auth and not state.auth.has_admin():
        _welcome(state.auth, console or url)


def _welcome(auth: Auth, url: str) -> None:
    """Let the first person in. No lasting key is printed: a service's output is kept in logs for years."""
    typer.echo("There is no admin key yet. This link opens the console as administrator, once, within 15 minutes:")
    typer.echo(f"  {auth.one_time_link(url)}")
    typer.echo("Make a lasting key with `haechi serve --create-key NAME:admin`; --admin-link prints another link.")


def _in_url(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _day(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _store() -> KeyStore:
    from shared import settings
    from shared.serving.keys import KEYS_FILE, KeyStore

    return KeyStore(settings.load().home / KEYS_FILE)


def _auth() -> Auth:
    from shared.serving.auth import Auth

    return Auth(_store())


def _print_new_key(name: str, role: Role, days: int | None = None) -> None:
    """Make a key, write that into the records, and print it."""
    from shared.records import Records
    from shared.serving.keys import id_of

    with Records.open() as records:  # where they cannot be opened, no key is made
        token = _store().create(name, role, seconds=None if days is None else days * _DAY)
        records.audit(WHO, "create_key", name, {"id": id_of(token), "role": role, "days": days})
    until = "" if days is None else f", valid for {days} days"
    typer.echo(f"Key for {name} ({role}{until}); it is not shown again:", err=True)
    typer.echo(token)


def _keys_app() -> typer.Typer:
    app = typer.Typer(help="Make, list and revoke API keys; a running server heeds it at once.", no_args_is_help=True)

    @app.command("create")
    def create(
        name: str = typer.Argument(help="Whose key it is, such as line3."),
        role: str = typer.Option(
            "operator",
            help="viewer reads; operator also sends parts and reviews; engineer also changes models; "
            "admin also manages keys.",
        ),
        days: int | None = typer.Option(
            None, min=1, max=36500, help="Days after which the key expires (default: it is valid until revoked)."
        ),
    ) -> None:
        """Make a key and print it; it is not kept and cannot be shown again."""
        from shared.serving.keys import check_role

        _print_new_key(name, check_role(role), days)

    @app.command("list")
    def list_keys() -> None:
        """Print every key: id, role, day of creation, day of expiry (UTC), state (valid, expired, revoked) and name."""
        import time

        for key in _store().all_keys():
            expires = "never" if key.expires is None else _day(key.expires)
            state = key.state(time.time())
            typer.echo(f"{key.id}  {key.role:<8}  {_day(key.created)}  {expires:<10}  {state:<7}  {key.name}")

    @app.command("revoke")
    def revoke(name: str = typer.Argument(help="The key's name or id.")) -> None:
        """Revoke a key, or all with this name, and end their console sessions."""
        from shared.records import Records

        count = _store().revoke(name)
        if count == 0:
            raise BadInput(f"there is no valid key called {name}; `haechi serve keys list` shows them.")
        typer.echo(f"Revoked {count}.")
        with Records.open() as records:  # after it: a database that is away must keep no key alive
            records.audit(WHO, "revoke_key", name, {"ended": count})

    return app
