"""What the bot says: the variant, the slots filled in, the particles, the buttons.

A response is looked for in the bot's folder (for the channel, then for all), then among the patterns. Only `{name}` is
filled in, in one pass, so that braces in what a user wrote stay what they are; nothing is evaluated. A Korean particle
is resolved where the template writes it, by the word before it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from solutions.contact_center.config import Bot, in_language
from solutions.contact_center.config import Button as ButtonConfig
from solutions.contact_center.dialogue import patterns
from solutions.contact_center.dialogue.events import Button
from solutions.contact_center.korean import with_particles

_NAME = re.compile(r"\{([^\W\d]\w*)\}")
_LAST_WORD = re.compile(r"\S{0,24}\Z")

VariantChooser = Callable[[str, int], int]
"""(response, number of variants) -> the variant to say."""


@dataclass(frozen=True)
class Said:
    """One response, filled in."""

    response: str
    variant: int
    text: str
    buttons: tuple[Button, ...]


class Wording:
    """The responses of a bot."""

    def __init__(self, bot: Bot) -> None:
        self._bot = bot

    def has(self, name: str) -> bool:
        """Whether there is such a response, in the folder or among the patterns."""
        return name in self._bot.responses or name in patterns.load(self._bot.settings.language).responses

    def say(self, name: str, language: str, channel: str, values: Mapping[str, str], choose: VariantChooser) -> Said:
        """A response, filled in. One that does not exist says nothing, and is still recorded under its name."""
        variants = self.variants(name, language, channel)
        if not variants:
            return Said(name, 0, "", ())
        variant = choose(name, len(variants)) % len(variants)
        return Said(name, variant, fill(variants[variant], values, language), self.buttons(name, language, values))

    def variants(self, name: str, language: str, channel: str) -> Sequence[str]:
        """All ways of saying it here."""
        config = self._bot.responses.get(name)
        if config is not None:
            here = config.channels.get(channel)
            found = (in_language(here, language) if here else None) or in_language(config.texts, language)
            if found:
                return found
        return patterns.load(language).responses.get(name, ())

    def buttons(self, name: str, language: str, values: Mapping[str, str]) -> tuple[Button, ...]:
        """The buttons of a response."""
        config = self._bot.responses.get(name)
        if config is None:
            return patterns.load(language).buttons.get(name, ())
        return tuple(made for button in config.buttons if (made := button_of(button, language, values)) is not None)


def button_of(config: ButtonConfig, language: str, values: Mapping[str, str]) -> Button | None:
    """A button as it is shown; None where it has no title in any language."""
    title = in_language(config.title, language)
    if title is None:
        return None
    say = in_language(config.say, language) or ("" if config.url else title)
    return Button(fill(title, values, language), fill(say, values, language) if say else "", config.url or "")


def fill(template: str, values: Mapping[str, str], language: str) -> str:
    """The template with its `{name}`s filled in, in one pass; one without a value is left out."""
    text = ""
    position = 0
    for found in _NAME.finditer(template):
        text = _joined(text, template[position : found.start()], language)
        text += values.get(found[1], "")
        position = found.end()
    return _joined(text, template[position:], language)


def _joined(before: str, literal: str, language: str) -> str:
    """`before` and a piece of the template, whose particles are resolved; those that a user wrote stay."""
    if language != "ko" or not literal:
        return before + literal
    found = _LAST_WORD.search(before)
    word = with_particles(found[0] if found else "")
    return before + with_particles(word + literal)[len(word) :]


def by_hash(conversation: str, turn: int) -> VariantChooser:
    """A variant that looks random and is the same on every machine."""

    def choose(response: str, count: int) -> int:
        digest = hashlib.sha256(f"{conversation}\n{turn}\n{response}".encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:4], "big") % count

    return choose
