"""Slots: what an answer says, whether it holds, how it is named and shown."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

from solutions.contact_center import masking
from solutions.contact_center.config import WHOLE_TEXT, Bot, Check, CollectStep, in_language, moment
from solutions.contact_center.dialogue import patterns
from solutions.contact_center.dialogue.actions import validate_with
from solutions.contact_center.dialogue.patterns import squeezed
from solutions.contact_center.dialogue.sealing import veil
from solutions.contact_center.masking import mask

if TYPE_CHECKING:
    from solutions.contact_center.entities import Entity

PERSONAL = frozenset({"phone", "email", "address", "card", "account", "name"})
"""Built-in entities whose values are sealed in every flow."""
MAX_TEXT = 2000
"""Characters of a message that are read and stored."""
_CHOICES = 12
"""How many choices are listed to a customer."""


class Extracts(Protocol):
    """What finds entities: an extractor of one language."""

    def extract(self, text: str, now: dt.datetime) -> list[Entity]:
        """All that are in a text."""

    def resolve(self, kind: str, text: str, now: dt.datetime) -> Entity | None:
        """The one that was asked for, in an answer that may be no more than `three` or `내일`."""


@dataclass(frozen=True)
class Candidate:
    """What a text seems to say about a slot."""

    kind: str
    value: Any
    """JSON."""
    shown: str
    """Normalised, in the clear; masked only when it is stored."""
    surface: str
    coverage: float = 1.0
    """Share of the message's letters that the surface is."""


@dataclass(frozen=True)
class Refusal:
    """Why a value does not hold: a response, and what to fill in."""

    response: str
    values: Mapping[str, str]


class Answers:
    """Reads and checks answers for one bot."""

    def __init__(self, bot: Bot, extractors: Mapping[str, Extracts]) -> None:
        self._bot = bot
        self._zone = ZoneInfo(bot.settings.timezone)
        self._extractors = extractors
        self._of_moments: dict[str, Extracts] = {}

    def local(self, time: dt.datetime) -> dt.datetime:
        """A moment in the bot's time zone."""
        return time.astimezone(self._zone)

    def personal(self, kind: str) -> bool:
        """Whether values of an entity are personal data by their nature."""
        config = self._bot.entities.get(kind)
        if config is None:
            return kind in PERSONAL
        return config.builtin in PERSONAL or config.check in ("resident_number", "luhn")

    def is_personal(self, candidate: Candidate) -> bool:
        """Whether a value is personal, by its kind or as it was written: a card number may answer "how many?"."""
        if self.personal(candidate.kind):
            return True
        config = self._bot.entities.get(candidate.kind)
        exact = config is not None and config.kind in ("list", "regex")
        return not exact and candidate.kind != WHOLE_TEXT and mask(candidate.surface).text != candidate.surface

    def extract(self, text: str, language: str, now: dt.datetime) -> list[Candidate]:
        """Everything a text names."""
        return [_candidate(found, text) for found in self._extractor(language).extract(text, now)]

    def fitting(self, candidates: Iterable[Candidate], kind: str) -> list[Candidate]:
        """Those that answer a question for `kind`, as that kind: a moment answers one for its day."""
        from solutions.contact_center.entities import Entity, fits

        found = []
        for one in candidates:
            made = fits(Entity(one.kind, 0, 0, one.surface, one.value, one.shown), kind)
            if made is not None:
                found.append(
                    one
                    if made.value == one.value
                    else dataclasses.replace(one, kind=kind, value=made.value, shown=made.text)
                )
        return found

    def is_moment(self, kind: str) -> bool:
        """Whether values are days with a time."""
        config = self._bot.entities.get(kind)
        return (config.builtin if config is not None else kind) == "datetime"

    def is_loose(self, kind: str) -> bool:
        """Whether almost any words would pass as an answer, so that they must stand alone to be taken as one."""
        config = self._bot.entities.get(kind)
        builtin = config.builtin if config is not None else kind
        return builtin in ("name", "address") or (config is not None and config.kind == "learned")

    def changed_moment(self, old: Any, text: str, language: str, now: dt.datetime) -> Candidate | None:
        """A moment of which the text says only the day or only the time anew; None where it says neither, or both."""
        from solutions.contact_center.entities import moments

        found = self._moments(language).extract(text, now)
        if len(found) != 1 or found[0].kind == "datetime" or not isinstance(old, str) or "T" not in old:
            return None
        day, _, clock = old.partition("T")
        new = str(found[0].value)
        value = f"{day}T{new}{clock[len(new) :]}" if found[0].kind == "time" else f"{new}T{clock}"
        moment = dt.datetime.fromisoformat(value)
        shown = f"{moments.show_date(moment.date(), language, now.date())} {moments.show_time(moment.time(), language)}"
        return dataclasses.replace(_candidate(found[0], text), kind="datetime", value=value, shown=shown)

    def _moments(self, language: str) -> Extracts:
        """An extractor of days and times alone, whatever the bot declares."""
        from solutions.contact_center.entities import Extractor

        if language not in self._of_moments:
            settings = self._bot.settings
            self._of_moments[language] = Extractor(
                (), language, settings.timezone, hours=settings.hours, used=("datetime", "date", "time")
            )
        return self._of_moments[language]

    def candidates(self, entities: Iterable[Entity], text: str) -> list[Candidate]:
        """Entities that the understanding found already."""
        return [_candidate(found, text) for found in entities]

    def read(self, step: CollectStep, text: str, language: str, now: dt.datetime) -> Candidate | None:
        """What a text says when this slot was asked for; None: nothing that serves."""
        if step.kind == WHOLE_TEXT:
            said = text.strip()
            return Candidate(WHOLE_TEXT, said, said, said) if squeezed(said) else None
        found = self._extractor(language).resolve(step.kind, text, now)
        return None if found is None else _candidate(found, text)

    def _extractor(self, language: str) -> Extracts:
        found = self._extractors.get(language)
        return found if found is not None else next(iter(self._extractors.values()))

    # -- names -------------------------------------------------------------------------------------------------------

    def title(self, step: CollectStep, language: str) -> str:
        """How a slot is named to the customer."""
        return self.names(step, language)[0]

    def names(self, step: CollectStep, language: str) -> list[str]:
        """How a slot may be named, the way to show it first."""
        entity = self._bot.entities.get(step.kind)
        written = [in_language(step.title, language), in_language(entity.title, language) if entity else None]
        builtin = (entity.builtin if entity else None) or step.kind
        known = patterns.load(language).titles.get(builtin, ())
        names = [name for name in (*written, *known) if name]
        return names or [step.collect.replace("_", " ")]

    def shown(self, candidate: Candidate, *, personal: bool) -> str:
        """A value as it may be stored and said: personal ones in part, `010-****-5678` or `김**`."""
        if not personal:
            return mask(candidate.shown).text
        config = self._bot.entities.get(candidate.kind)
        checked = {"resident_number": "resident_number", "luhn": "card"}.get(config.check or "" if config else "")
        kind = checked or (config.builtin if config else None) or candidate.kind
        return masking.shown(candidate.shown, kind) if kind in masking.KINDS else veil(candidate.shown)

    # -- checks ------------------------------------------------------------------------------------------------------

    def check(
        self, step: CollectStep, candidate: Candidate, values: Mapping[str, Any], language: str, now: dt.datetime
    ) -> Refusal | None:
        """None where the value holds, else why not."""
        rules = step.validation
        if rules is None:
            return None
        shown = {"title": self.title(step, language), "value": candidate.shown[:100]}
        wrong = (
            _wrong_choice(rules, candidate) or _wrong_number(rules, candidate) or _wrong_moment(rules, candidate, now)
        )
        if wrong is not None:
            return Refusal(wrong[0], {**shown, **wrong[1]})
        if rules.function is not None:
            reason = validate_with(rules.function, candidate.value, values, language)
            if reason is not None:
                return Refusal("refused_reason", {**shown, "reason": reason})
        return None

    def choices(self, step: CollectStep) -> list[str]:
        """What the slot's value may be, where that is a short list."""
        entity = self._bot.entities.get(step.kind)
        allowed = [str(one) for one in step.validation.one_of] if step.validation else []
        found = allowed or (list(entity.values) if entity is not None else [])
        return found if len(found) <= _CHOICES else []


def _candidate(found: Entity, text: str) -> Candidate:
    whole = len(squeezed(text)) or 1
    return Candidate(found.kind, found.value, found.text, found.surface, min(1.0, len(squeezed(found.surface)) / whole))


_Wrong = tuple[str, dict[str, str]]


def _wrong_choice(rules: Check, candidate: Candidate) -> _Wrong | None:
    if rules.one_of and candidate.value not in rules.one_of and candidate.shown not in map(str, rules.one_of):
        return "refused_one_of", {"choices": ", ".join(str(one) for one in rules.one_of)}
    text = candidate.value if isinstance(candidate.value, str) else candidate.shown
    if rules.pattern is not None and not re.fullmatch(rules.pattern, text):
        return "refused_pattern", {}
    if rules.length is not None and len(text) < rules.length[0]:
        return "refused_short", {"limit": str(rules.length[0])}
    if rules.length is not None and len(text) > rules.length[1]:
        return "refused_long", {"limit": str(rules.length[1])}
    return None


def _wrong_number(rules: Check, candidate: Candidate) -> _Wrong | None:
    if rules.min is None and rules.max is None:
        return None
    number = number_of(candidate.value)
    if number is None:
        return "refused_kind", {}
    if rules.min is not None and number < rules.min:
        return "refused_min", {"limit": f"{rules.min:,.10g}"}
    if rules.max is not None and number > rules.max:
        return "refused_max", {"limit": f"{rules.max:,.10g}"}
    return None


def _wrong_moment(rules: Check, candidate: Candidate, now: dt.datetime) -> _Wrong | None:
    if rules.after is None and rules.before is None:
        return None
    given = moment_of(candidate.value, now)
    if given is None:
        return "refused_kind", {}
    whole_day = isinstance(candidate.value, str) and len(candidate.value) == len("2026-01-01")
    if rules.after is not None:
        limit = moment(rules.after, now)
        # a day without a time is after `now` when it has not ended
        if (given + dt.timedelta(days=1) if whole_day and rules.after.startswith("now") else given) <= limit:
            return "refused_after", {"limit": _clock(limit, whole_day)}
    if rules.before is not None:
        limit = moment(rules.before, now)
        if given >= limit:
            return "refused_before", {"limit": _clock(limit, whole_day)}
    return None


def _clock(limit: dt.datetime, whole_day: bool) -> str:
    midnight = limit.hour == limit.minute == 0
    return limit.strftime("%Y-%m-%d") if whole_day or midnight else limit.strftime("%Y-%m-%d %H:%M")


def number_of(value: Any) -> float | None:
    """A number in a slot's value: itself, or the amount of money."""
    if isinstance(value, Mapping):
        value = value.get("amount", value.get("value"))
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def moment_of(value: Any, now: dt.datetime) -> dt.datetime | None:
    """A moment in a slot's value: ISO date, date and time, or a time of today; in the bot's zone."""
    if not isinstance(value, str):
        return None
    try:
        if re.fullmatch(r"\d{2}:\d{2}(:\d{2})?", value):
            clock = dt.time.fromisoformat(value)
            return now.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
        found = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)
