"""Finds all entities of a bot in a text, and reads the answer to one question. See the package for the values."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from shared.errors import BadInput
from solutions.contact_center.entities import clock, contacts, learned, moments, numbers
from solutions.contact_center.entities.lists import Lists
from solutions.contact_center.entities.moments import Piece
from solutions.contact_center.entities.patterns import Pattern
from solutions.contact_center.entities.reading import Reading, has_hangul, read

if TYPE_CHECKING:
    from solutions.contact_center.bot_models import EntityConfig, Hours
    from solutions.contact_center.config import Bot

BUILTINS = (
    "datetime",
    "date",
    "time",
    "duration",
    "money",
    "phone",
    "email",
    "address",
    "card",
    "account",
    "order_number",
    "name",
    "number",
)
"""In the order of their priority where two have the same span."""
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOMENTS = frozenset({"datetime", "date", "time"})
_PERSONAL = frozenset({"phone", "email", "address", "card", "account"})
_MONTH_FIRST = (
    "America/",
    "Asia/Seoul",
    "Asia/Pyongyang",
    "Asia/Tokyo",
    "Asia/Manila",
    "US/",
    "Canada/",
    "UTC",
    "Etc/",
)


@dataclass(frozen=True)
class Entity:
    """A detail of a text: characters `start` to `end`, as written (`surface`) and as meant (`value`, JSON)."""

    kind: str
    start: int
    end: int
    surface: str
    value: Any
    text: str
    """Normalised, to show."""
    confidence: float = 1.0
    unit: str = ""
    """The currency of an amount of money."""


class Extractor:
    """Finds entities. Immutable once made, so that threads may share it."""

    def __init__(
        self,
        declared: Iterable[EntityConfig],
        language: str = "ko",
        timezone: str = "Asia/Seoul",
        *,
        hours: Hours | None = None,
        weights: Mapping[str, Any] | None = None,
        used: Iterable[str] | None = None,
    ) -> None:
        """Reads the declarations once.

        Args:
            declared: the entities of the bot's folder, in the order of their priority.
            language: in which values are shown, and what decides between 5 March and May 3.
            timezone: where the bot's customers are.
            hours: business hours, which settle hours without morning or afternoon.
            weights: of the learned entities, from `learned.fit`.
            used: names of built-ins that are searched for besides those declared; None: all.

        Raises:
            BadInput: a pattern is unsafe, or the weights are damaged.
        """
        configs = list(declared)
        self._language = language
        self._zone = ZoneInfo(timezone)
        self._configs = {config.entity: config for config in configs}
        self._hours = tuple(_spans(hours, day) for day in _DAYS)
        self._day_first = language != "ko" and not timezone.startswith(_MONTH_FIRST)
        self._lists = Lists((c.entity, c.values, c.fuzzy) for c in configs if c.kind == "list")
        self._patterns = {c.entity: Pattern(c.entity, c.pattern or "", c.check) for c in configs if c.kind == "regex"}
        self._labeller = learned.Labeller(weights) if weights else None
        self._names = {name: name for name in (BUILTINS if used is None else used) if name in BUILTINS}
        for config in reversed(configs):  # of two names for one built-in, the first
            if config.kind == "builtin" and config.builtin:
                self._names[config.builtin] = config.entity
        order = [config.entity for config in configs] + [self._names.get(name, name) for name in BUILTINS]
        self._priority = {name: place for place, name in reversed(list(enumerate(order)))}

    @classmethod
    def of_bot(cls, bot: Bot, language: str | None = None, weights: Mapping[str, Any] | None = None) -> Extractor:
        """For a bot: its declared entities, and of the built-ins those that its flows ask for."""
        kinds = {step.kind for flow in bot.flows.values() for step in flow.slots().values()}
        kinds |= {mark.entity for intent in bot.intents.values() for one in intent.examples for mark in one.marks}
        settings = bot.settings
        return cls(
            bot.entities.values(),
            language or settings.language,
            settings.timezone,
            hours=settings.hours,
            weights=weights,
            used=kinds,
        )

    def extract(self, text: str, now: dt.datetime) -> list[Entity]:
        """All entities of a text, in order, none overlapping another.

        Args:
            text: any string; characters after the first 10,000 are not read.
            now: the moment that `tomorrow` is told from; without a zone it is taken as local to the bot.
        """
        reading = read(text)
        if not reading.text.strip():
            return []
        found = list(self._declared(reading, text))
        for builtin, name in self._names.items():
            if builtin not in _MOMENTS | _PERSONAL:
                found += self._entities(self._pieces(builtin, reading, text, now), reading, text, {builtin: name})
        moments_used = {key: name for key, name in self._names.items() if key in _MOMENTS}
        if moments_used:
            found += self._entities(self._pieces("datetime", reading, text, now), reading, text, moments_used)
        personal_used = {key: name for key, name in self._names.items() if key in _PERSONAL}
        if personal_used:
            dictated = numbers.dictated(reading, has_hangul(reading.text))
            found += self._entities(contacts.personals(dictated.text), dictated, text, personal_used)
        return self._settled(found, len(text))

    def resolve(self, kind: str, text: str, now: dt.datetime) -> Entity | None:
        """What an answer says to a question for one `kind`; None: nothing that serves.

        Barer forms are understood than in `extract`: `three`, `셋이요`, `15일`, `3` for a time, a name alone.

        Raises:
            BadInput: no such entity.
        """
        config = self._configs.get(kind)
        builtin = config.builtin if config is not None else kind
        if config is None and kind not in BUILTINS:
            raise BadInput(f"{kind!r} is no entity of this bot; it knows {', '.join([*self._configs, *BUILTINS])}.")
        reading = read(text)
        if not reading.text.strip():
            return None
        if builtin is not None:
            return self._builtin_answer(builtin, kind, reading, text, now)
        assert config is not None
        if config.kind == "list":
            hit = self._lists.resolve(reading, kind)
            return (
                None
                if hit is None
                else self._entity(kind, hit.start, hit.end, hit.value, hit.value, hit.confidence, reading, text)
            )
        mine = [one for one in self._declared(reading, text) if one.kind == kind]
        if mine:
            return max(mine, key=lambda one: one.end - one.start)
        return self._pattern_answer(kind, text) if config.kind == "regex" else _whole(kind, text)

    # -- declared kinds ----------------------------------------------------------------------------------------------

    def _declared(self, reading: Reading, text: str) -> Iterator[Entity]:
        for hit in self._lists.find(reading):
            yield self._entity(hit.entity, hit.start, hit.end, hit.value, hit.value, hit.confidence, reading, text)
        for name, pattern in self._patterns.items():
            for start, end in pattern.find(reading.text):
                begin, stop = reading.original(start, end)
                written = unicodedata.normalize("NFKC", text[begin:stop])
                value = self._cased(name, written)
                yield Entity(name, begin, stop, text[begin:stop], value, value)
        if self._labeller is not None:
            for one in self._labeller.find(text):
                if one.label in self._configs:
                    surface = text[one.start : one.end]
                    yield Entity(one.label, one.start, one.end, surface, surface, surface, one.confidence)

    def _cased(self, name: str, written: str) -> str:
        """As the pattern writes it: in capitals, where it matches only so."""
        pattern = self._configs[name].pattern or ""
        return (
            written if re.fullmatch(pattern, written) or not re.fullmatch(pattern, written.upper()) else written.upper()
        )

    def _pattern_answer(self, name: str, text: str) -> Entity | None:
        """A number or code spelt with spaces and hyphens, or read digit by digit."""
        plain = re.sub(r"[\s\-.]", "", numbers.dictated(read(text)).text)
        found = next(self._patterns[name].find(plain), None)
        if found is None:
            return None
        written = self._cased(name, plain[found[0] : found[1]])
        start = len(text) - len(text.lstrip())
        return Entity(name, start, len(text.rstrip()), text.strip(), written, written, 0.8)

    # -- built-in kinds ----------------------------------------------------------------------------------------------

    def _when(self, now: dt.datetime) -> moments.When:
        local = now.astimezone(self._zone) if now.tzinfo is not None else now.replace(tzinfo=self._zone)
        return moments.When(local, self._language, self._hours, self._day_first)

    def _pieces(
        self, builtin: str, reading: Reading, text: str, now: dt.datetime, bare: bool = False
    ) -> Iterator[Piece]:
        """What is found of a built-in kind; of datetime, date and time all three."""
        plain = reading.text
        korean = has_hangul(plain)
        if builtin in _MOMENTS:
            yield from moments.days_and_times(plain, self._when(now), korean, bare)
        elif builtin == "duration":
            yield from moments.durations(plain, self._when(now), korean)
        elif builtin == "money":
            yield from moments.money(plain, self._when(now))
        elif builtin == "order_number":
            yield from contacts.orders(plain)
        elif builtin == "name":
            original = text if isinstance(reading.starts, range) else plain
            yield from contacts.names(plain, original[: len(plain)])
        elif builtin == "number":
            for start, end, number in numbers.find(plain, korean):
                yield _number(start, end, number)

    def _entities(
        self, pieces: Iterable[Piece], reading: Reading, text: str, names: Mapping[str, str]
    ) -> Iterator[Entity]:
        for one in pieces:
            if one.kind in names:
                entity = self._entity(
                    names[one.kind], one.start, one.end, one.value, one.text, one.confidence, reading, text
                )
                yield replace(entity, unit=one.unit) if one.unit else entity

    def _entity(
        self, kind: str, start: int, end: int, value: Any, shown: str, confidence: float, reading: Reading, text: str
    ) -> Entity:
        begin, stop = reading.original(start, end)
        surface = text[begin:stop]
        begin += len(surface) - len(surface.lstrip())
        stop -= len(surface) - len(surface.rstrip())
        return Entity(kind, begin, stop, text[begin:stop], value, shown, confidence)

    def _builtin_answer(self, builtin: str, kind: str, reading: Reading, text: str, now: dt.datetime) -> Entity | None:
        source = reading
        if builtin in _PERSONAL:
            source = numbers.dictated(reading, has_hangul(reading.text))
            found = [one for one in contacts.personals(source.text) if one.kind == builtin]
        else:
            found = list(self._pieces(builtin, reading, text, now))
        mine = [one for one in found if one.kind == builtin]
        if not mine and builtin in _MOMENTS:
            mine = self._as_moment(builtin, found, self._when(now))
        if not mine:
            bare = self._bare(builtin, source, text, now)
            mine = [bare] if bare is not None else []
        if not mine:
            return None
        best = max(mine, key=lambda one: (one.end - one.start, one.confidence, -one.start))
        return next(iter(self._entities([best], source, text, {builtin: kind})), None)

    def _as_moment(self, builtin: str, found: list[Piece], when: moments.When) -> list[Piece]:
        """The day or the time of a moment; the next moment of a time alone."""
        made = []
        for one in found:
            if one.kind == "datetime" and builtin in ("date", "time"):
                made.append(_part(one, builtin, when))
            elif one.kind == "time" and builtin == "datetime":
                time = dt.time.fromisoformat(one.value)
                made.append(_next(one, time, when))
        return made

    def _bare(self, builtin: str, reading: Reading, text: str, now: dt.datetime) -> Piece | None:
        plain = reading.text
        when = self._when(now)
        if builtin in ("account", "order_number", "phone", "card"):
            return contacts.number_answer(builtin, plain)
        if builtin == "name":
            same = len(plain) == len(text)
            return contacts.name_answer(plain, text if same else plain)
        if builtin == "address":
            return _bare_address(plain)
        if builtin in ("time", "datetime"):
            return self._bare_time(builtin, plain, when)
        number = _bare_number(plain)
        return self._as_number(builtin, *number, when) if number is not None else None

    def _as_number(self, builtin: str, start: int, end: int, value: int | float, when: moments.When) -> Piece | None:
        """A number alone as a number, an amount of money or a day of the month."""
        if builtin == "number":
            return _number(start, end, value)
        if builtin == "money" and value >= 0:
            currency = "KRW" if self._language == "ko" else "USD"
            return Piece("money", start, end, value, moments.show_money(value, currency, self._language), 0.8, currency)
        if builtin == "date" and value == int(value) and 1 <= value <= 31:
            days = [one for one in moments.days_and_times(f"{int(value)}일에", when, True) if one.kind == "date"]
            return replace(days[0], start=start, end=end, confidence=0.7) if days else None
        return None

    def _bare_time(self, builtin: str, plain: str, when: moments.When) -> Piece | None:
        number = _bare_number(plain)
        if number is None:
            found = list(clock.find(plain, bare=True))
            if not found:
                return None
            one = max(found, key=lambda x: x.end - x.start)
        else:
            start, end, value = number
            if value != int(value) or not 1 <= value <= 24:
                return None
            one = clock.Clock(start, end, int(value) % 24, 0, sure=value > 12)
        time = one.choose(when.all_hours)
        piece = Piece("time", one.start, one.end, f"{time:%H:%M}", moments.show_time(time, self._language), 0.7)
        return piece if builtin == "time" else _next(piece, time, when)

    # -- overlaps ----------------------------------------------------------------------------------------------------

    def _settled(self, found: list[Entity], length: int) -> list[Entity]:
        """The longest of overlapping ones, then the kind of higher priority, then the surer one."""
        taken = bytearray(length)
        kept: list[Entity] = []
        last = len(self._priority)
        for one in sorted(
            found, key=lambda x: (x.start - x.end, self._priority.get(x.kind, last), -x.confidence, x.start)
        ):
            if not any(taken[one.start : one.end]):
                taken[one.start : one.end] = b"\1" * (one.end - one.start)
                kept.append(one)
        return sorted(kept, key=lambda x: x.start)


def fits(entity: Entity, kind: str) -> Entity | None:
    """An entity as another kind that a slot asks for: a datetime as its date or its time.

    None where it makes no sense.
    """
    if entity.kind == kind:
        return entity
    if entity.kind == "datetime" and kind in ("date", "time"):
        moment = dt.datetime.fromisoformat(entity.value)
        value = moment.date().isoformat() if kind == "date" else f"{moment:%H:%M}"
        return replace(entity, kind=kind, value=value, text=value)
    if entity.kind == "money" and kind == "number":
        return replace(entity, kind=kind, unit="")
    return None


@lru_cache(maxsize=8)
def _plain_extractor(language: str, timezone: str) -> Extractor:
    return Extractor((), language, timezone)


def resolve(
    kind: str, text: str, now: dt.datetime, *, language: str = "ko", timezone: str = "Asia/Seoul"
) -> Entity | None:
    """`Extractor.resolve` for the built-in kinds, without a bot."""
    return _plain_extractor(language, timezone).resolve(kind, text, now)


def _spans(hours: Hours | None, day: str) -> moments.Spans:
    written: Sequence[str] = getattr(hours, day) if hours is not None else ()
    spans = []
    for span in written:
        begin, _, end = span.partition("-")
        last = dt.time(23, 59) if end.startswith("24") else dt.time.fromisoformat(end)
        spans.append((dt.time.fromisoformat(begin), last))
    return tuple(spans)


_PLACE_NAME = re.compile(r"[가-힣](?:시|군|구|동|읍|면|리|로|길)(?:\s|$)")


def _bare_address(plain: str) -> Piece | None:
    """An answer that could be an address: words with a number, or with the name of a place in Korea."""
    stripped = plain.strip()
    if not (re.search(r"\d", stripped) and " " in stripped) and not _PLACE_NAME.search(stripped):
        return None
    start = plain.index(stripped)
    return Piece("address", start, start + len(stripped), stripped, stripped, 0.6)


def _number(start: int, end: int, value: float) -> Piece:
    return Piece("number", start, end, value, f"{value:,}")


_BARE_TAIL = re.compile(
    r"(?:개|명|대|번|장|잔|건|일|시|원|분|회선)?(?:이에요|예요|입니다|이요|요|정도|쯤|으로|로)*[.!]?\Z"
)
_BARE_HEAD = re.compile(r"\A(?:음+|어+|um+|uh+|it's|just|about|at|around|maybe|the)[\s,.]+")


def _bare_number(plain: str) -> tuple[int, int, int | float] | None:
    """A message that is a number and little else: `셋이요`, `three please`, `삼`."""
    head = _BARE_HEAD.match(plain)
    begin = head.end() if head else len(plain) - len(plain.lstrip())
    rest = plain[begin:].strip()
    rest = re.sub(r"(?:,?\s(?:please|thanks|thank you|people|items|부탁해요|부탁드려요))+[.!]?\Z", "", rest).rstrip(
        " .!"
    )
    for candidate in (rest, _BARE_TAIL.sub("", rest).strip()):
        if candidate and re.fullmatch(rf"-?(?:{numbers.KOREAN}|{numbers.ENGLISH})", candidate):
            number = numbers.value(candidate)
            if number is not None:
                return begin, begin + len(candidate), number
    return None


def _part(one: Piece, builtin: str, when: moments.When) -> Piece:
    moment = dt.datetime.fromisoformat(one.value)
    if builtin == "date":
        shown = moments.show_date(moment.date(), when.language, when.now.date())
        return replace(one, kind="date", value=moment.date().isoformat(), text=shown)
    return replace(one, kind="time", value=f"{moment:%H:%M}", text=moments.show_time(moment.time(), when.language))


def _next(one: Piece, time: dt.time, when: moments.When) -> Piece:
    moment = moments.next_at(clock.Clock(one.start, one.end, time.hour, time.minute), when)
    day = moments.show_date(moment.date(), when.language, when.now.date())
    shown = f"{day} {moments.show_time(moment.time(), when.language)}"
    return replace(one, kind="datetime", value=moment.isoformat(), text=shown, confidence=min(one.confidence, 0.8))


def _whole(kind: str, text: str) -> Entity | None:
    """A learned entity that was asked for: the whole answer says it."""
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if not 1 <= end - start <= 200:
        return None
    return Entity(kind, start, end, text[start:end], text[start:end], text[start:end], 0.5)
