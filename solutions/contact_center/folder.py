"""Reads a bot's folder: every file, every item, then what refers to what; all mistakes are noted, none is raised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from shared.yaml_files import Document, Mistakes, did_you_mean, dotted, read, validate
from solutions.contact_center.bot_models import Examples, Name, Strict, Texts
from solutions.contact_center.config import SECTIONS, Bot, Settings

MAX_FILES = 2000
REVIEWED = "reviewed.yaml"
"""In `intents/` and `faq/`: what people labelled on the review page; it adds to the items of other files."""


@dataclass
class Source:
    """The bot while it is read: what fits its models, and where every name is written."""

    folder: Path
    mistakes: Mistakes
    settings: Settings | None = None
    settings_document: Document | None = None
    items: dict[str, dict[str, Any]] = field(default_factory=lambda: {section: {} for section in SECTIONS})
    """Section: name: item, of those that fit their models."""
    written: dict[str, dict[str, tuple[Document, int]]] = field(
        default_factory=lambda: {section: {} for section in SECTIONS}
    )
    """Section: name: file and index, of all that have a name, so that a mistake in one is not said as its absence."""

    def note(self, section: str, name: str, path: tuple[str | int, ...], what: str, shown: str = "") -> None:
        """Note a mistake in an item, at a place within it."""
        document, index = self.written[section][name]
        self.mistakes.add(document.file, document.line((index, *path)), shown or document.shown((index,), path), what)

    def note_settings(self, path: tuple[str | int, ...], what: str) -> None:
        """Note a mistake in `bot.yaml`."""
        assert self.settings_document is not None
        document = self.settings_document
        self.mistakes.add(document.file, document.line(path), dotted(path), what)

    def flows_are_whole(self) -> bool:
        """Whether every flow fits its model, so that all slots are known."""
        return len(self.items["flows"]) == len(self.written["flows"])


def read_source(folder: Path) -> tuple[Source, Bot | None]:
    """The bot in this folder, None where `bot.yaml` itself cannot be used, and what was found on the way.

    The bot is not to be used unless `source.mistakes` is empty.
    """
    from solutions.contact_center.references import check

    source = Source(folder, Mistakes())
    if not _read_settings(source):
        return source, None
    _note_strays(folder, source.mistakes)
    for section in SECTIONS:
        for file in _files(folder, section, source.mistakes):
            _read_items(source, section, file)
    if source.settings is None:
        return source, None
    check(source)
    items = {SECTIONS[section][2]: items for section, items in source.items.items()}
    return source, Bot(settings=source.settings, folder=folder, **items)


def _read_settings(source: Source) -> bool:
    """Read `bot.yaml`; whether there is one. `source.settings` stays None where it cannot be used."""
    folder, mistakes = source.folder, source.mistakes
    path = folder / "bot.yaml"
    if not folder.is_dir():
        mistakes.add(str(folder), 0, "", "is no folder; make a bot with `haechi bot new NAME --template telecom`")
        return False
    if not path.is_file():
        mistakes.add(str(folder), 0, "", "has no bot.yaml; give a bot's folder, or make one with `haechi bot new NAME`")
        return False
    document = read(path, str(path), mistakes)
    if document is not None and not isinstance(document.value, dict):
        mistakes.add(str(path), 1, "", "must hold keys and values, such as `name: telecom`")
    elif document is not None:
        source.settings_document = document
        language = _first_language(document.value)
        source.settings = validate(Settings, document, (), mistakes, {"language": language})
    return True


def _first_language(raw: dict[str, Any]) -> str:
    languages = raw.get("languages")
    first = languages[0] if isinstance(languages, list) and languages else None
    return first if isinstance(first, str) else "ko"


def _files(folder: Path, section: str, mistakes: Mistakes) -> Iterator[Path]:
    """`intents.yaml` and everything in `intents/`, in the order of names."""
    found = [folder / f"{section}{end}" for end in (".yaml", ".yml") if (folder / f"{section}{end}").is_file()]
    inner = folder / section
    if inner.is_dir():
        inside = (path for path in inner.rglob("*") if path.suffix in (".yaml", ".yml") and path.is_file())
        found += sorted(inside, key=lambda path: (path == inner / REVIEWED, path))  # it adds to what the others hold
    if len(found) > MAX_FILES:
        mistakes.add(str(inner), 0, "", f"holds more than {MAX_FILES} files; put several items into one")
    yield from found[:MAX_FILES]


def _note_strays(folder: Path, mistakes: Mistakes) -> None:
    """YAML that nobody reads: a file or folder whose name is not known."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "bot.yaml":
            continue
        holds_yaml = path.is_dir() and any(inner.suffix in (".yaml", ".yml") for inner in path.iterdir())
        is_yaml = path.is_file() and path.suffix in (".yaml", ".yml")
        if (holds_yaml and path.name not in SECTIONS) or (is_yaml and path.stem not in SECTIONS):
            known = did_you_mean(path.stem, SECTIONS)
            mistakes.add(str(path), 0, "", f"is not read, for its name is not known; {known}")


def _read_items(source: Source, section: str, file: Path) -> None:
    key, model, _ = SECTIONS[section]
    document = read(file, str(file), source.mistakes)
    if document is None or document.value is None:
        return
    if not isinstance(document.value, list):
        what = f"must be a list of items, each beginning with `- {key}: NAME`"
        source.mistakes.add(document.file, 1, "", what)
        return
    context = {"language": source.settings.language if source.settings else "ko"}
    for index, raw in enumerate(document.value):
        name = raw.get(key) if isinstance(raw, dict) else None
        if isinstance(name, str | int | float) and not isinstance(name, bool):
            name = str(name)
            if name in source.written[section] and section in ("intents", "faq") and file.name == REVIEWED:
                _add_reviewed(source, section, name, document, index, context)
                continue
            if name in source.written[section]:
                first, at = source.written[section][name]
                what = f"{name} is there already, in {first.file}:{first.line((at,))}; rename or remove one"
                source.mistakes.add(document.file, document.line((index,)), key, what)
                continue
            source.written[section][name] = (document, index)
        item = validate(model, document, (index,), source.mistakes, context)
        if item is not None:
            source.items[section][str(name)] = item


class ReviewedIntent(Strict):
    """Further examples of an intent that another file holds."""

    intent: Name
    by_language: Examples = Field(alias="examples")


class ReviewedFaq(Strict):
    """Further ways of asking a question that another file holds."""

    faq: Name
    asked: Texts = Field(alias="questions")


def _add_reviewed(
    source: Source, section: str, name: str, document: Document, index: int, context: dict[str, Any]
) -> None:
    """Add what was reviewed to the item of the other file, unless that one does not fit its own model."""
    model = ReviewedIntent if section == "intents" else ReviewedFaq
    more: Any = validate(model, document, (index,), source.mistakes, context)
    item = source.items[section].get(name)
    if more is None or item is None:
        return
    field_name = "by_language" if section == "intents" else "asked"
    before, added = getattr(item, field_name), getattr(more, field_name)
    merged = {key: [*before.get(key, []), *added.get(key, [])] for key in dict.fromkeys([*before, *added])}
    source.items[section][name] = item.model_copy(update={field_name: merged})
