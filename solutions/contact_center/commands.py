"""`haechi bot`: make, train, talk to, test, evaluate and serve a bot. Each group of verbs registers itself."""

from __future__ import annotations

import typer

from solutions.contact_center import folder_commands, review_commands, serve_commands, talk_commands, train_commands

app = typer.Typer(no_args_is_help=True, help="A contact centre's text bot, from a folder of YAML.")
for _group in (folder_commands, train_commands, talk_commands, serve_commands, review_commands):
    _group.register(app)
