"""`haechi bot serve`: a bot on its own server, with everything that `haechi serve` has beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import BadInput
from shared.serving.commands import DEFAULT_PORT, Host, NoAuth, Port, Rate, TlsCert, TlsKey, Trace, Workers

if TYPE_CHECKING:
    from shared.serving.app import RouterFactory

_BOT_FILE = "bot.yaml"

Places = Annotated[
    list[Path], typer.Argument(metavar="PACKAGE|BOT...", help="Packages, or bots' folders, which are trained first.")
]
DatabaseUrl = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="Where conversations are kept, sqlite:///FILE or postgresql://…; several servers may share one "
        "(default: HAECHI_DATABASE_URL, else SQLite in the home folder).",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    places: Places,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    workers: Workers = 1,
    database_url: DatabaseUrl = "",
    rate: Rate = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    no_auth: NoAuth = False,
    trace: Trace = False,
) -> None:
    """Serve bots: the chat page, the widget, KakaoTalk's skill, the API and the console.

    The chat page is at /chat/NAME, and this line shows it on another site, which bot.yaml must name under
    channels: web: origins:

    \b
      <script src="https://SERVER/chat/NAME/widget.js" async></script>

    Customers need no key, and reach only what is below /chat/. Programs send a key to /api/contact_center, and people
    sign in to the console; make keys with haechi serve keys create. Servers that share a database must share
    keys/conversations.key of the home folder too.
    """
    from shared import settings
    from shared.serving.commands import run
    from shared.serving.state import ServerOptions
    from shared.serving.tls import Certificate

    if database_url:
        os.environ["HAECHI_DATABASE_URL"] = database_url
        settings.load.cache_clear()
    packages = [_package(place) for place in places]
    options = ServerOptions(
        packages, False, auth=not no_auth, rate=rate, tls=Certificate.of(tls_cert, tls_key), trace=trace
    )
    names = _names(packages)

    def greet(url: str) -> None:
        for name in names:
            typer.echo(f"Chat with {name} at {url}/chat/{name}")

    run(options, host, port, routers(), workers, greet)


def routers() -> Sequence[RouterFactory]:
    """What the server has beside the usual."""
    from shared.serving.console import console_for
    from solutions.contact_center import insight_routes, routes
    from solutions.contact_center.console import pages

    return (routes.router_for, insight_routes.router_for, console_for(pages("/")))


def _package(place: Path) -> Path:
    """The package at a place; a bot's folder is trained, unless that was done before."""
    if not (place / _BOT_FILE).is_file():
        return place
    from shared import settings
    from shared.package import open_package
    from solutions.contact_center.config import load

    bot = load(place)
    package = settings.load().home / "bots" / bot.settings.name
    if package.exists() and open_package(package).manifest.lineage.data_fingerprint == bot.fingerprint:
        return package
    from solutions.contact_center.training import from_bot, train

    package.parent.mkdir(parents=True, exist_ok=True)
    return train(from_bot(bot), package, bot=bot).path


def _names(packages: Sequence[Path]) -> list[str]:
    """The bots' names.

    Raises:
        BadInput: a package is no bot's.
    """
    from shared.serving.discover import open_all
    from solutions.contact_center.understanding.model import TASK

    names = []
    for package, _ in open_all(packages):
        if package.manifest.task != TASK:
            raise BadInput(
                f"{package.path} is a package for {package.manifest.task}, not for a bot; serve it with haechi serve."
            )
        names.append(package.manifest.name)
    return names
