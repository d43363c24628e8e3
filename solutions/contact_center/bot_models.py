"""What a user writes about the bot itself and what it understands: `bot.yaml`, intents, entities, FAQ.

Texts are kept per language; `in_language` picks one.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from solutions.contact_center import marks

RESERVED_INTENTS = (
    "affirm",
    "deny",
    "cancel",
    "correct",
    "repeat",
    "help",
    "greet",
    "thank",
    "goodbye",
    "agent",
    "insult",
    "back",
    "skip",
)
"""Intents that every bot knows; a folder may add examples to them, and its own response."""
OOS = "oos"
"""The reserved name of what is out of scope: its examples choose the threshold and are never an answer."""
BUILTIN_ENTITIES = (
    "datetime",
    "date",
    "time",
    "duration",
    "money",
    "number",
    "phone",
    "email",
    "address",
    "card",
    "account",
    "order_number",
    "name",
)
WHOLE_TEXT = "text"
"""The entity of a slot that takes the whole message."""
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TEST_NOW = "2026-03-02T10:00:00"
"""The clock at which a conversation test begins where it names none: a Monday morning, in the bot's time zone."""
_LANGUAGE = re.compile(r"[a-z]{2}")
_T = TypeVar("_T")


class Strict(BaseModel):
    """A section of a file. Unknown keys, NaN and infinity are errors; numbers serve as text, as written."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


def _language(info: ValidationInfo) -> str:
    return (info.context or {}).get("language", "ko")


def _per_language(value: Any, info: ValidationInfo) -> Any:
    return value if isinstance(value, Mapping) else {_language(info): value}


def _lists_per_language(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, Mapping):
        value = {_language(info): value}
    return {key: [inner] if isinstance(inner, str | int | float) else inner for key, inner in value.items()}


def _languages_only(value: dict[str, _T]) -> dict[str, _T]:
    for key in value:
        if not _LANGUAGE.fullmatch(key):
            raise ValueError(f"{key!r} is not a language; write two letters, such as ko or en")
    return value


Name = Annotated[str, StringConstraints(pattern=rf"^{marks.NAME}$")]
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
_WORDS_SCHEMA: dict[str, Any] = {"type": ["string", "number"]}  # a number serves as text, as written
_TEXT_SCHEMA: dict[str, Any] = {
    "anyOf": [_WORDS_SCHEMA, {"type": "object", "additionalProperties": _WORDS_SCHEMA}],
}
LINES_SCHEMA: dict[str, Any] = {"anyOf": [_WORDS_SCHEMA, {"type": "array", "items": _WORDS_SCHEMA}]}
_TEXTS_SCHEMA: dict[str, Any] = {
    "anyOf": [*LINES_SCHEMA["anyOf"], {"type": "object", "additionalProperties": LINES_SCHEMA}],
}
Text = Annotated[
    dict[str, Line], BeforeValidator(_per_language), AfterValidator(_languages_only), WithJsonSchema(_TEXT_SCHEMA)
]
"""Language: text. A plain string is in the bot's first language."""
Texts = Annotated[
    dict[str, list[Line]],
    BeforeValidator(_lists_per_language),
    AfterValidator(_languages_only),
    WithJsonSchema(_TEXTS_SCHEMA),
]
"""Language: variants. A plain string or list is in the bot's first language."""


def in_language(texts: Mapping[str, _T], language: str) -> _T | None:
    """What is there in this language, else in the first language that has something; None where there is nothing."""
    return texts[language] if language in texts else next(iter(texts.values()), None)


# --- bot.yaml ---------------------------------------------------------------------------------------------------------

_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"
Span = Annotated[str, StringConstraints(pattern=rf"^{_CLOCK}-({_CLOCK}|24:00)$")]
Spans = Annotated[list[Span], Field(max_length=8)]


class Hours(Strict):
    """When people are there. A day without spans is closed; a bot without `hours` has people around the clock."""

    mon: Spans = []
    tue: Spans = []
    wed: Spans = []
    thu: Spans = []
    fri: Spans = []
    sat: Spans = []
    sun: Spans = []
    holidays: list[dt.date] = []

    def open_at(self, moment: dt.datetime) -> bool:
        """Whether people are there at this local moment."""
        if moment.date() in self.holidays:
            return False
        clock = moment.strftime("%H:%M")
        spans: list[str] = getattr(self, DAYS[moment.weekday()])
        return any(span.split("-")[0] <= clock < span.split("-")[1] for span in spans)


Share = Annotated[float, Field(ge=0, le=1)]


class Thresholds(Strict):
    """Probabilities from which the bot answers, asks "did you mean", and takes a text as in scope. None: by cost."""

    answer: Share | None = None
    confirm: Share | None = None
    scope: Share | None = None


class Costs(Strict):
    """What each outcome costs, in any one unit; the thresholds are chosen to make the sum least."""

    wrong_answer: Annotated[float, Field(gt=0)] = 10.0
    clarification: Annotated[float, Field(ge=0)] = 1.0
    hand_over: Annotated[float, Field(ge=0)] = 4.0


class Policies(Strict):
    """How patient the bot is."""

    max_clarifications: Annotated[int, Field(ge=0, le=10)] = 2
    """Times in a row that the bot says it did not understand before it hands over."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Times a slot is asked for before the bot hands over."""
    form_timeout_minutes: Annotated[float, Field(gt=0)] = 30.0
    """A flow that waits longer for an answer is asked about before it goes on."""
    retention_days: Annotated[int, Field(ge=1)] = 90
    hand_over: bool = True
    """Whether there are people to hand over to."""
    bandit: bool = False
    """Whether a learned policy may choose among rungs and variants."""


class Channel(Strict):
    """What one channel can show, and how it greets."""

    greeting: Name | None = None
    """The response said when a conversation is opened."""
    buttons: bool = True
    max_text: Annotated[int, Field(ge=50, le=100_000)] = 1000
    """Characters in one message; longer ones are split."""
    origins: list[Annotated[str, StringConstraints(pattern=r"^https?://[^/\s?#]+$", max_length=300)]] = []
    """Sites whose pages may embed the chat, such as `https://www.shop.example`; the server's own page always may."""


class Model(Strict):
    """How understanding is trained."""

    recipe: Literal["auto", "light", "encoder", "fine-tuned"] = "auto"
    encoder: str = "all-minilm-l6-v2"
    latency_ms: Annotated[float, Field(gt=0)] = 15.0
    """The most one message may take, at the 99th percentile on one core."""


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{value!r} is no time zone; write one such as Asia/Seoul or Europe/London") from error
    return value


class Settings(Strict):
    """`bot.yaml`."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    title: Text = {}
    languages: Annotated[list[Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]], Field(min_length=1)] = ["ko"]
    """The first is the one used where a text names none."""
    timezone: Annotated[str, AfterValidator(_known_zone)] = "Asia/Seoul"
    hours: Hours | None = None
    thresholds: Thresholds = Thresholds()
    costs: Costs = Costs()
    policies: Policies = Policies()
    channels: dict[Literal["web", "kakao", "rest", "terminal", "voice"], Channel] = {}
    model: Model = Model()

    @property
    def language(self) -> str:
        """The default language."""
        return self.languages[0]

    @field_validator("languages")
    @classmethod
    def _different(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("names a language twice; name each once")
        return value


# --- intents, entities, FAQ -------------------------------------------------------------------------------------------


class Mark(Strict):
    """Characters `start` to `end` of an example are this entity; `value` None: the surface says it."""

    start: int
    end: int
    entity: str
    value: str | None = None


class Example(Strict):
    """An utterance without its brackets, and what they marked."""

    text: Line
    language: str = "ko"
    marks: list[Mark] = []


def _example(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        raise ValueError(f"is YAML's {json.dumps(value)}, no text; put it in quotes")
    if not isinstance(value, str | int | float):
        return value
    text, found = marks.parse(str(value).strip())
    return {"text": text, "marks": [Mark(start=m.start, end=m.end, entity=m.entity, value=m.value) for m in found]}


def _with_language(value: dict[str, list[Example]]) -> dict[str, list[Example]]:
    return {key: [one.model_copy(update={"language": key}) for one in inner] for key, inner in value.items()}


Examples = Annotated[
    dict[str, list[Annotated[Example, BeforeValidator(_example)]]],
    BeforeValidator(_lists_per_language),
    AfterValidator(_languages_only),
    AfterValidator(_with_language),
    WithJsonSchema(_TEXTS_SCHEMA),
]


class IntentConfig(Strict):
    """What a customer may want, shown by examples. Entities are marked inside them: `[5G 스탠다드](plan)`."""

    intent: Name
    flow: Name | None = None
    """The flow it starts; default: the one of the same name."""
    response: Name | None = None
    """What the bot says, where no flow is started; default: `intent_<name>`."""
    title: Text = {}
    """How the bot names it when it asks "did you mean"."""
    by_language: Examples = Field(default={}, alias="examples")

    @property
    def examples(self) -> list[Example]:
        """In all languages."""
        return [one for inner in self.by_language.values() for one in inner]


def _values(value: Any) -> Any:
    if isinstance(value, list):
        return {str(one): [] for one in value if isinstance(one, str | int | float)}
    if isinstance(value, Mapping):
        return {
            key: [] if inner is None else [inner] if isinstance(inner, str | int | float) else inner
            for key, inner in value.items()
        }
    return value


class EntityConfig(Strict):
    """A detail that is found in what customers say."""

    entity: Name
    kind: Literal["list", "regex", "builtin", "learned"] | None = None
    """Default: by what else is given (`values`, `pattern`, `builtin`), and `learned` from marked examples otherwise."""
    title: Text = {}
    """How the bot names it, as when it asks what to change."""
    values: Annotated[
        dict[str, list[Line]],
        BeforeValidator(_values),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "array", "items": _WORDS_SCHEMA},
                    {"type": "object", "additionalProperties": {"anyOf": [*LINES_SCHEMA["anyOf"], {"type": "null"}]}},
                ]
            }
        ),
    ] = {}
    """Canonical value: synonyms."""
    fuzzy: bool = True
    """Whether a value with a slip of the finger is found too."""
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None
    check: Literal["luhn", "mod11", "business_number", "resident_number"] | None = None
    """Check digits that a match of `pattern` must have right."""
    builtin: Literal[BUILTIN_ENTITIES] | None = None  # type: ignore[valid-type]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(
                    f"is no regular expression ({error}); mend it, with \\\\ before plain signs"
                ) from error
        return value

    @model_validator(mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("kind") is not None:
            return value
        found = [kind for key, kind in _KIND_OF.items() if value.get(key)]
        return {**value, "kind": found[0] if found else "learned"}

    @model_validator(mode="after")
    def _complete(self) -> EntityConfig:
        for key, kind in _KIND_OF.items():
            given = bool(getattr(self, key))
            if kind == self.kind and not given:
                raise ValueError(f"an entity of kind {kind} needs `{key}`; add it")
            if kind != self.kind and given:
                raise ValueError(f"an entity of kind {self.kind} takes no `{key}`; remove it, or make it kind: {kind}")
        if self.check and self.kind != "regex":
            raise ValueError("`check` belongs to an entity with a `pattern`; remove it")
        return self


_KIND_OF = {"values": "list", "pattern": "regex", "builtin": "builtin"}


class Button(Strict):
    """A button under a message: pressing it says `say` (default: its title), or opens `url`."""

    title: Text
    say: Text = {}
    url: Annotated[str, StringConstraints(pattern=r"^(https?://|tel:|mailto:)\S+$", max_length=2000)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"title": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [_WORDS_SCHEMA, handler.resolve_ref_schema(handler(core))]}


class FaqConfig(Strict):
    """A question and its answer; the more ways of asking, the better it is found."""

    faq: Name
    asked: Texts = Field(alias="questions")
    answer: Text
    buttons: list[Button] = []
    topic: str = ""
    title: Text = {}
    """How the bot names it when it asks "did you mean"; default: the first question."""

    @property
    def questions(self) -> list[str]:
        """In all languages."""
        return [one for inner in self.asked.values() for one in inner]

    @field_validator("asked")
    @classmethod
    def _some(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        if not any(value.values()):
            raise ValueError("needs one way of asking at least; add one")
        return value
