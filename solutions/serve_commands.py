"""`haechi serve`: the server of `shared`, which knows no solution, with every solution's routes and console pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from shared.serving.commands import register

if TYPE_CHECKING:
    from fastapi import APIRouter

    from shared.serving.app import RouterFactory
    from shared.serving.state import ServerState


def routers() -> Sequence[RouterFactory]:
    """What each solution adds to the server, imported when it starts. The console takes every path that is left."""
    from shared.serving.console import console_for
    from solutions.cctv import console as camera_console
    from solutions.cctv import routes as camera_routes
    from solutions.contact_center import console as bot_console
    from solutions.contact_center import insight_routes
    from solutions.contact_center import routes as bot_routes
    from solutions.inspection import console, routes

    def console_with_cameras(state: ServerState) -> APIRouter:
        """The cameras' pages are there only where this machine watches a site."""
        return console_for([console.page_for, *camera_console.pages(state), *bot_console.pages()])(state)

    return (
        routes.router_for,
        camera_routes.router_for,
        bot_routes.router_for,
        insight_routes.router_for,
        console_with_cameras,
    )


app = typer.Typer()
register(app, routers)
