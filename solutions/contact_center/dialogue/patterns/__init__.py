"""What every bot knows without being told: examples of the reserved intents, and the responses of the patterns.

One YAML file a language. A bot's folder adds examples to the intents and replaces responses by name.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from solutions.contact_center.dialogue.events import Button


@dataclass(frozen=True)
class Patterns:
    """Of one language."""

    examples: Mapping[str, tuple[str, ...]]
    """Reserved intent -> utterances."""
    responses: Mapping[str, tuple[str, ...]]
    """Response -> variants."""
    buttons: Mapping[str, tuple[Button, ...]]
    """Response -> its buttons."""
    titles: Mapping[str, tuple[str, ...]]
    """Built-in entity -> its names, the one to show first."""


@functools.cache
def languages() -> tuple[str, ...]:
    """Those that patterns exist for."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.yaml")))


@functools.cache
def load(language: str) -> Patterns:
    """The patterns of a language; those of English where it has none."""
    path = Path(__file__).with_name(f"{language if language in languages() else 'en'}.yaml")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Patterns(
        examples={name: tuple(items) for name, items in document["intents"].items()},
        responses={item["response"]: tuple(item["text"]) for item in document["responses"]},
        buttons={
            item["response"]: tuple(Button.from_dict(button) for button in item["buttons"])
            for item in document["responses"]
            if "buttons" in item
        },
        titles={name: tuple(items) for name, items in document["titles"].items()},
    )


def examples(language: str) -> Mapping[str, tuple[str, ...]]:
    """Reserved intent -> utterances, to train on."""
    return load(language).examples


def squeezed(text: str) -> str:
    """Letters and digits alone, NFKC, lower case: what two ways of writing the same words share."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


@functools.cache
def _exact(language: str) -> Mapping[str, str]:
    return {squeezed(text): name for name, texts in load(language).examples.items() for text in texts}


def exactly(text: str, language: str) -> str | None:
    """The reserved intent of which this is an example word for word; None where it is none."""
    return _exact(language).get(squeezed(text))
