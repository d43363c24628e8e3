"""JSON schemas of a bot's files, for editors: completion, and mistakes underlined while one writes.

An editor with the YAML language server reads the line that the templates carry at the top of every file:
`# yaml-language-server: $schema=../schema/intents.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.files import write_json
from solutions.contact_center.bot_models import LINES_SCHEMA
from solutions.contact_center.config import SECTIONS, Settings

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """File name without `.json`: schema. `bot` is that of `bot.yaml`, the others are lists of items."""
    found: dict[str, dict[str, Any]] = {"bot": {"$schema": _DIALECT, **Settings.model_json_schema()}}
    for section, (key, model, _) in SECTIONS.items():
        item = model.model_json_schema()
        definitions = item.pop("$defs", {})
        if section == "responses":
            _open_languages(item)
        found[section] = {
            "$schema": _DIALECT,
            "title": section,
            "description": f"A list of items that begin with `- {key}: NAME`.",
            "type": "array",
            "items": item,
            "$defs": definitions,
        }
    return found


def _open_languages(item: dict[str, Any]) -> None:
    """A response writes its languages beside its name."""
    texts = item["properties"].pop("texts")
    item["properties"]["text"] = texts
    item["patternProperties"] = {"^[a-z]{2}$": LINES_SCHEMA}


def write_schemas(folder: Path) -> list[Path]:
    """Write each schema into `folder`; the files."""
    written = []
    for name, schema in schemas().items():
        write_json(folder / f"{name}.json", schema)
        written.append(folder / f"{name}.json")
    return written


def modeline(section: str) -> str:
    """The first line of a file that tells an editor its schema."""
    place = "schema" if section == "bot" else "../schema"
    return f"# yaml-language-server: $schema={place}/{section}.json"
