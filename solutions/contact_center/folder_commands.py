"""`haechi bot new`, `check` and `schema`: make a bot's folder, find every mistake in it, help the editor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.yaml_files import Mistakes
    from solutions.contact_center.config import Bot

TEMPLATES = Path(__file__).parent / "templates"
_JSON = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON.")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("new")(new)
    app.command("check")(check)
    app.command("schema")(schema)


def templates() -> dict[str, list[str]]:
    """Template: its languages."""
    found: dict[str, list[str]] = {}
    for path in sorted(TEMPLATES.glob("*-*/bot.yaml")):
        name, _, language = path.parent.name.rpartition("-")
        found.setdefault(name, []).append(language)
    return found


def new(
    folder: Path = typer.Argument(
        ..., metavar="NAME", help="Folder to make; its last part (a-z, 0-9, -) names the bot."
    ),
    template: str = typer.Option("telecom", "--template", "-t", help="telecom, bank or shop."),
    language: str = typer.Option("ko", "--lang", "-l", help="ko or en."),
    json_file: Path | None = _JSON,
) -> None:
    """Make a working bot to change: intents, FAQ, flows, responses and conversation tests.

    The folder is plain YAML, to be kept under version control. Its schema/ serves editors with a YAML language server.
    """
    from shared.files import new_folder, write_json
    from shared.yaml_files import did_you_mean
    from solutions.contact_center.config import load
    from solutions.contact_center.schemas import write_schemas

    known = templates()
    if template not in known:
        raise BadInput(f"--template {template}: is not known; {did_you_mean(template, known)}")
    if language not in known[template]:
        raise BadInput(f"--lang {language}: {template} is there in {', '.join(known[template])}; choose one of them.")
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise BadInput(f"NAME {name}: a bot's name is made of a-z, 0-9 and -; choose another, such as my-bot.")
    origin = TEMPLATES / f"{template}-{language}"
    with new_folder(folder) as made:
        _copy(origin, made, name)
        write_schemas(made / "schema")
    bot = load(folder)
    if json_file is not None:
        write_json(json_file, {"folder": str(folder), "template": template, "language": language, **_counts(bot)})
    typer.echo(f"{folder}: {_summary(bot)}.")
    typer.echo(f"next: haechi bot check {folder}; haechi bot train {folder} -o {name}.bot; haechi bot chat {name}.bot")


def _copy(origin: Path, destination: Path, name: str) -> None:
    """The template's YAML and Markdown, its bot called `name`."""
    for path in sorted(origin.rglob("*")):
        if path.suffix not in (".yaml", ".md") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        if path == origin / "bot.yaml":
            text = re.sub(r"(?m)^name:.*$", f"name: {name}", text, count=1)
        place = destination / path.relative_to(origin)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


def check(
    folder: Path = typer.Argument(..., metavar="BOT", help="A bot's folder."),
    strict: bool = typer.Option(False, "--strict", help="Notes count as mistakes."),
    json_file: Path | None = _JSON,
) -> None:
    """Find every mistake in a bot's folder, each with its file and line; exit code 2 if there is one.

    Then what could be better (few examples, the same words under two names, what nothing uses), and what is there.
    """
    from solutions.contact_center.advice import advise
    from solutions.contact_center.folder import read_source

    source, bot = read_source(folder)
    notes = advise(source, bot) if bot is not None and not source.mistakes.found else None
    if json_file is not None:
        from shared.files import write_json

        write_json(json_file, _report(folder, bot, source.mistakes, notes))
    source.mistakes.refuse()
    assert bot is not None
    assert notes is not None
    if strict:
        notes.refuse()
    for note in sorted(notes.found):
        typer.echo(f"note: {note}")
    for line in _table(bot):
        typer.echo(line)


def _report(folder: Path, bot: Bot | None, mistakes: Mistakes, notes: Mistakes | None) -> dict[str, Any]:
    right = bot is not None and not mistakes.found
    report: dict[str, Any] = {
        "bot": str(folder),
        "ok": right,
        "mistakes": [vars(one) for one in sorted(mistakes.found)],
        "notes": [vars(one) for one in sorted(notes.found)] if notes is not None else [],
    }
    if right and bot is not None:
        report |= {**_counts(bot), "fingerprint": bot.fingerprint}
    return report


def _counts(bot: Bot) -> dict[str, Any]:
    return {
        "name": bot.settings.name,
        "languages": bot.settings.languages,
        "intents": len(bot.intents),
        "examples": sum(len(intent.examples) for intent in bot.intents.values()),
        "entities": len(bot.entities),
        "faq": len(bot.faqs),
        "questions": sum(len(faq.questions) for faq in bot.faqs.values()),
        "flows": len(bot.flows),
        "steps": sum(len(flow.steps) for flow in bot.flows.values()),
        "actions": len(bot.actions),
        "responses": len(bot.responses),
        "tests": len(bot.tests),
        "turns": sum(len(list(test.messages())) for test in bot.tests.values()),
    }


def _summary(bot: Bot) -> str:
    counts = _counts(bot)
    return (
        f"{counts['intents']} intents with {counts['examples']} examples, {counts['faq']} FAQ with "
        f"{counts['questions']} questions, {counts['flows']} flows, {counts['tests']} conversation tests"
    )


def _table(bot: Bot) -> list[str]:
    counts = _counts(bot)
    rows = [
        ("intents", counts["intents"], f"{counts['examples']} examples"),
        ("entities", counts["entities"], f"{sum(len(one.values) for one in bot.entities.values())} values"),
        ("faq", counts["faq"], f"{counts['questions']} questions"),
        ("flows", counts["flows"], f"{counts['steps']} steps"),
        ("actions", counts["actions"], ""),
        ("responses", counts["responses"], ""),
        ("tests", counts["tests"], f"{counts['turns']} turns"),
    ]
    head = f"{bot.settings.name} ({', '.join(bot.settings.languages)}), fingerprint {bot.fingerprint[:12]}"
    return [head, *(f"  {name:<10}{count:>5}  {more}".rstrip() for name, count, more in rows)]


def schema(
    folder: Path | None = typer.Option(None, "--output", "-o", metavar="FOLDER", help="Write them there, a file each."),
) -> None:
    """The JSON schemas of a bot's files: completion and checks while one writes.

    Without -o they are printed as one JSON object. An editor with a YAML language server takes a file's schema from its
    first line, as the templates have it: `# yaml-language-server: $schema=../schema/intents.json`.
    """
    import json

    from solutions.contact_center.schemas import modeline, schemas, write_schemas

    if folder is None:
        typer.echo(json.dumps(schemas(), indent=2, ensure_ascii=False))
        return
    for path in write_schemas(folder):
        typer.echo(f"{path}: {modeline(path.stem)}")
