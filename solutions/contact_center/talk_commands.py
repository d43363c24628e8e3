"""`haechi bot chat`, `test`, `replay`, `forget`, `purge`: talk to a bot, try it, see what was said, delete it."""

from __future__ import annotations

import contextlib
import datetime as dt
import getpass
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.records import Records
    from solutions.contact_center.config import Bot
    from solutions.contact_center.dialogue.events import Reply
    from solutions.contact_center.dialogue.rehearsal import Outcome, Rehearsal
    from solutions.contact_center.pipeline import BotPipeline
    from solutions.contact_center.understanding import Understander

_JSON = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON.")
_BOT = typer.Argument(..., metavar="BOT", help="A bot's folder.")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("chat")(chat)
    app.command("test")(rehearse)
    app.command("replay")(replay)
    app.command("forget")(forget)
    app.command("purge")(purge)


def chat(
    bot: Path = typer.Argument(..., metavar="BOT|PACKAGE", help="A bot's folder, or the package made from one."),
    conversation: str | None = typer.Option(None, "--conversation", help="Go on with this one (default: a new one)."),
    language: str | None = typer.Option(None, "--lang", "-l", help="ko or en (default: the bot's first)."),
) -> None:
    """Talk to a bot in the terminal. An empty line is a message too; end with Ctrl-D.

    A folder is trained first, quickly, and what was trained is kept until the folder changes.
    """
    from shared.records import Records
    from solutions.contact_center.dialogue.events import Message

    name = conversation or f"terminal-{secrets.token_hex(6)}"
    with Records.open() as records:
        pipeline = _pipeline(bot, records)

        def message(text: str) -> Message:
            return Message(text, secrets.token_hex(8), "terminal", language, dt.datetime.now(dt.UTC))

        typer.echo(f"conversation {name}", err=True)
        if not pipeline.state(name).turn:
            _show(pipeline.greet(name, message("")))
        for text in _lines():
            _show(pipeline.reply(name, message(text)))


def _lines() -> Iterator[str]:
    """What is typed, line by line, until the end of the input."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            yield input(prompt)
        except (EOFError, KeyboardInterrupt):
            return


def _show(reply: Reply) -> None:
    for text in reply.texts:
        typer.echo(text)
    if reply.buttons:
        typer.echo("  ".join(f"[{button.title}]" for button in reply.buttons))


def rehearse(
    bot: Path = _BOT,
    package: Path | None = typer.Option(
        None, "--package", metavar="PACKAGE", help="Use what was trained (default: train quickly)."
    ),
    json_file: Path | None = _JSON,
) -> None:
    """Run the conversation tests of a bot's folder; exit code 1 if one fails.

    Shows every expectation that did not hold with the conversation up to there, and which flows and steps no test
    went through.
    """
    from shared.files import write_json
    from shared.progress import counted
    from solutions.contact_center.config import load
    from solutions.contact_center.dialogue import rehearsal

    read = load(bot)
    if not read.tests:
        raise BadInput(f"{bot / 'tests'}: holds no conversation tests; write one, as in the templates.")
    understander = _trained(package) if package is not None else _trained(_quickly(read))
    with counted("conversations") as tick:
        result = rehearsal.rehearse(read, understander, tick)
    if json_file is not None:
        write_json(json_file, result.as_dict())
    _print(result)
    if not result.passed:
        raise typer.Exit(1)


def _print(rehearsal: Rehearsal) -> None:
    for outcome in rehearsal.outcomes:
        typer.echo(f"{'ok    ' if outcome.passed else 'FAILED'}  {outcome.test}")
        if not outcome.passed:
            _print_failed(outcome)
    coverage = rehearsal.coverage()
    failed = sum(not outcome.passed for outcome in rehearsal.outcomes)
    flows, steps = coverage["flows"], coverage["steps"]
    typer.echo(
        f"{len(rehearsal.outcomes) - failed} of {len(rehearsal.outcomes)} conversations as expected; "
        f"flows {flows['covered']} of {flows['total']}, steps {steps['covered']} of {steps['total']}."
    )
    missing = [*coverage["missing_flows"], *coverage["missing_steps"]]
    if missing:
        typer.echo(f"no test goes through: {', '.join(missing)}")


def _print_failed(outcome: Outcome) -> None:
    for failure in outcome.failures:
        typer.echo(f"          step {failure.step}  {_short(failure.user)}")
        typer.echo(f"            {failure.field}: expected {_short(failure.expected)}, got {_short(failure.got)}")
    for who, text in outcome.transcript:
        typer.echo(f"          {'>' if who == 'user' else ' '} {_short(text)}")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def replay(
    conversation: str = typer.Argument(..., metavar="CONVERSATION", help="Its id."),
    json_file: Path | None = _JSON,
) -> None:
    """Print a conversation's events and the state that they add up to."""
    import json

    from shared.files import write_json
    from shared.records import Records
    from shared.streams import Streams
    from solutions.contact_center.dialogue import state
    from solutions.contact_center.dialogue.events import to_json
    from solutions.contact_center.dialogue.store import Conversations, event_of

    with Records.open() as records:
        stored = Conversations(Streams(records)).events(conversation)
    if not stored:
        raise BadInput(f"there is no conversation {conversation}.")
    events = [event_of(one) for one in stored]
    final = state.replay(events)
    for one, event in zip(stored, events, strict=True):
        typer.echo(f"{one.seq:5}  {event.time}  {event.kind:14} {to_json(event.data)}")
    typer.echo(json.dumps(final.as_dict(), ensure_ascii=False, indent=2, sort_keys=True))
    if json_file is not None:
        write_json(json_file, {"events": [event.as_dict() for event in events], "state": final.as_dict()})


def forget(
    customer: str = typer.Argument(..., metavar="CUSTOMER", help="The customer's id, as the channel gave it."),
) -> None:
    """Delete all conversations of a customer; the audit trail keeps that it was done, not whose they were."""
    from shared.records import Records
    from shared.streams import Streams
    from solutions.contact_center.dialogue.store import SOLUTION

    with Records.open() as records:
        count = Streams(records).delete_by_owner(SOLUTION, customer, _who())
    typer.echo(f"{count} conversation{'' if count == 1 else 's'} deleted.")


def purge(
    bot: Path | None = typer.Argument(None, metavar="[BOT]", help="A bot's folder, whose retention_days count."),
    days: int | None = typer.Option(None, "--days", min=1, help="Or this many days."),
) -> None:
    """Delete conversations that have been silent for longer than they may be kept."""
    from shared.records import Records
    from shared.streams import Streams
    from solutions.contact_center.config import load
    from solutions.contact_center.dialogue.store import SOLUTION

    if (bot is None) == (days is None):
        raise BadInput("name either a bot's folder or --days.")
    kept = days if bot is None else load(bot).settings.policies.retention_days
    assert kept is not None  # one of the two was given
    with Records.open() as records:
        before = dt.datetime.now(dt.UTC) - dt.timedelta(days=kept)
        count = Streams(records).delete_older_than(SOLUTION, before, _who())
    typer.echo(f"{count} conversation{'' if count == 1 else 's'} older than {kept} days deleted.")


def _who() -> str:
    with contextlib.suppress(Exception):  # no entry in the password database, as in a bare container
        return getpass.getuser()
    return "command line"


# --- what was trained -------------------------------------------------------------------------------------------------


def _pipeline(given: Path, records: Records) -> BotPipeline:
    """The bot of a folder or of a package."""
    from solutions.contact_center.config import load
    from solutions.contact_center.pipeline import BotPipeline

    if not (given / "bot.yaml").exists():
        return BotPipeline.open(given, records)
    return BotPipeline.open(_quickly(load(given)), records)


def _trained(package: Path) -> Understander:
    from solutions.contact_center.understanding import Understander

    return Understander.load(package)


def _quickly(bot: Bot) -> Path:
    """A package of the folder as it is now, of the light recipe; kept in the cache until the folder changes."""
    from shared import settings

    kept = settings.load().cache / "bots" / f"{bot.settings.name}-{bot.fingerprint[:16]}"
    if not kept.exists():
        _train(bot, kept)
    return kept


def _train(bot: Bot, destination: Path) -> None:
    from shared.progress import stage
    from solutions.contact_center.training import from_bot, train

    with stage(f"training {bot.settings.name}"):
        train(from_bot(bot), destination, bot=bot, model=bot.settings.model.model_copy(update={"recipe": "light"}))
