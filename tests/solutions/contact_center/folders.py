"""Bots' folders for tests: a minimal one, with files put in the place of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

MINIMAL = {
    "bot.yaml": "name: cafe\nlanguages: [en]\ntimezone: Europe/London\n",
    "intents.yaml": "- intent: opening\n  response: hours\n  examples: [when do you open, are you open today]\n",
    "faq.yaml": "- {faq: wifi, questions: [is there wifi], answer: There is.}\n",
    "responses.yaml": "- {response: hours, en: [From 9 to 5.]}\n",
}

Files = Mapping[str, str | bytes | None]


def made(place: Path, files: Files, base: Mapping[str, str] = MINIMAL) -> Path:
    """A folder with these files besides, or instead of, a minimal bot's; None leaves one out."""
    folder = place / "bot"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in {**base, **files}.items():
        if content is None:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return folder
