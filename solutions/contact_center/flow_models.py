"""What a user writes about what the bot does: flows and their steps, actions, responses, conversation tests."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from solutions.contact_center.bot_models import LINES_SCHEMA, Button, Line, Name, Strict, Text, Texts

# --- flows ------------------------------------------------------------------------------------------------------------

Scalar = str | bool | int | float
ChannelName = Literal["web", "kakao", "rest", "terminal", "voice"]
CHANNELS: tuple[str, ...] = get_args(ChannelName)
_MOMENT = re.compile(
    r"(?P<base>now|today|\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?)?)"
    r"(?:\s*(?P<sign>[+-])\s*(?P<count>\d{1,5})(?P<unit>[dhm]))?"
)


def _moment(value: str) -> str:
    moment(value, dt.datetime(2026, 1, 1))
    return value


def moment(written: str, now: dt.datetime) -> dt.datetime:
    """What `after` and `before` mean: `now`, `today`, a date or date and time, then `+30d`, `-2h`, `+15m` if wanted.

    Raises:
        ValueError: it is none of these, or no day of the calendar.
    """
    found = _MOMENT.fullmatch(written.strip())
    if found is None:
        raise ValueError(f"{written!r} is no moment; write now, today, 2026-12-31 or such with +30d, -2h or +15m")
    base = found["base"]
    if base == "now":
        start = now
    elif base == "today":
        start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    else:
        start = dt.datetime.fromisoformat(base).replace(tzinfo=now.tzinfo)
    if found["count"] is None:
        return start
    unit = {"d": "days", "h": "hours", "m": "minutes"}[found["unit"]]
    try:
        return start + dt.timedelta(**{unit: int(found["sign"] + found["count"])})
    except OverflowError as error:
        raise ValueError(f"{written!r} is beyond the calendar; write a nearer one") from error


class Check(Strict):
    """What a slot's value must fulfil. Each that is given must hold."""

    one_of: list[Scalar] = Field(default_factory=list)
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None
    """A regular expression that the whole text must match."""
    min: float | None = None
    """Smallest number or amount."""
    max: float | None = None
    after: Annotated[str, AfterValidator(_moment)] | None = None
    """A date or time must be later: `now`, `today`, a date, with `+1d`, `-2h` or `+15m` if wanted."""
    before: Annotated[str, AfterValidator(_moment)] | None = None
    length: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    """Least and most characters."""
    function: Name | None = None
    """A Python function registered by this name; it returns None, or the reason for which the value is refused."""

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

    @model_validator(mode="after")
    def _possible(self) -> Check:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; exchange them")
        if self.length is not None and self.length[0] > self.length[1]:
            raise ValueError(f"length {self.length} ends before it begins; write [least, most]")
        return self


class Step(Strict):
    """One step of a flow; `label` is where a `goto` may lead."""

    label: Name | None = None


class CollectStep(Step):
    """Ask for a slot until its value holds, or until the attempts are used up. A filled slot is not asked for."""

    collect: Name
    entity: Name | None = None
    """What is looked for; default: the entity of the slot's name. `text` takes the whole message."""
    title: Text = Field(default_factory=dict)
    """How the slot is named when the bot asks what to change; default: the entity's title."""
    ask: Name | None = None
    """The response that asks; default `ask_<slot>`."""
    help: Name | None = None
    """The response said when an answer does not serve; default: the reason, and the question again."""
    validation: Check | None = Field(default=None, alias="validate")
    optional: bool = False
    """Whether the customer may skip it."""

    @property
    def kind(self) -> str:
        """The entity's name."""
        return self.entity or self.collect

    @property
    def question(self) -> str:
        """The response that asks."""
        return self.ask or f"ask_{self.collect}"


class Condition(Strict):
    """What a slot must be. Each that is given must hold."""

    slot: Name
    equals: Scalar | None = None
    not_: Scalar | None = Field(default=None, alias="not")
    in_: list[Scalar] | None = Field(default=None, alias="in")
    set: bool | None = None
    missing: bool | None = None
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Condition:
        if self.model_fields_set <= {"slot"}:
            raise ValueError("asks nothing of the slot; add equals, not, in, set, missing, above or below")
        return self


class Case(Strict):
    """One way out of a branch: the first whose condition holds is taken."""

    when: Condition | None = None
    otherwise: Literal[True] | None = None
    goto: Name

    @model_validator(mode="after")
    def _one(self) -> Case:
        if (self.when is None) == (self.otherwise is None):
            raise ValueError("needs either `when` or `otherwise: true`; add one")
        return self


class BranchStep(Step):
    """Go on at the first case whose condition holds; at the next step where none does."""

    branch: Annotated[list[Case], Field(min_length=1)]

    @field_validator("branch")
    @classmethod
    def _otherwise_last(cls, value: list[Case]) -> list[Case]:
        if any(case.otherwise for case in value[:-1]):
            raise ValueError("has cases after `otherwise`, which are never reached; move it to the end")
        return value


class SayStep(Step):
    """Say a response."""

    say: Name


class ConfirmStep(Step):
    """Ask yes or no: yes goes on, no (or a correction) asks what to change, a cancellation ends the flow."""

    confirm: Name
    correct: bool = True
    """False: a no ends the flow."""


class ActStep(Step):
    """Run an action."""

    act: Name
    arguments: dict[Name, Scalar] = Field(default_factory=dict)
    """Argument: value, in which `{slot}` stands for a slot. Default: every filled slot."""
    save: dict[Name, Line] = Field(default_factory=dict)
    """Slot: key of the action's result that is put there."""
    failed: Name | None = None
    """The response said when the action fails; default `action_failed`."""
    otherwise: Name | None = None
    """The label at which to go on when the action fails; default: the flow ends."""


class SetStep(Step):
    """Set slots; null empties one."""

    set: Annotated[dict[Name, Scalar | None], Field(min_length=1)]


class HandOverStep(Step):
    """Hand the conversation to a person, for this reason; the flow ends."""

    hand_over: Line


class GotoStep(Step):
    """Go on at a label."""

    goto: Name


class EndStep(Step):
    """End the flow."""

    end: Literal[True]


STEPS: dict[str, type[Step]] = {
    "collect": CollectStep,
    "branch": BranchStep,
    "say": SayStep,
    "confirm": ConfirmStep,
    "act": ActStep,
    "set": SetStep,
    "hand_over": HandOverStep,
    "goto": GotoStep,
    "end": EndStep,
}
"""The key that makes a step what it is, and its model."""


def _step_kind(value: Any) -> str | None:
    keys = (
        set(value)
        if isinstance(value, Mapping)
        else set(type(value).model_fields)
        if isinstance(value, Step)
        else set()
    )
    found = [key for key in STEPS if key in keys]
    return f"step:{found[0]}" if len(found) == 1 else None


AnyStep = Annotated[
    Annotated[CollectStep, Tag("step:collect")]
    | Annotated[BranchStep, Tag("step:branch")]
    | Annotated[SayStep, Tag("step:say")]
    | Annotated[ConfirmStep, Tag("step:confirm")]
    | Annotated[ActStep, Tag("step:act")]
    | Annotated[SetStep, Tag("step:set")]
    | Annotated[HandOverStep, Tag("step:hand_over")]
    | Annotated[GotoStep, Tag("step:goto")]
    | Annotated[EndStep, Tag("step:end")],
    Discriminator(
        _step_kind,
        custom_error_type="step",
        custom_error_message=f"is no step; write exactly one of {', '.join(STEPS)}",
    ),
]


class FlowConfig(Strict):
    """What is done about an intent, step by step."""

    flow: Name
    title: Text = Field(default_factory=dict)
    personal: list[Name] = Field(default_factory=list)
    """Slots whose values are sealed in the store and masked in transcripts."""
    steps: Annotated[list[AnyStep], Field(min_length=1, max_length=500)]

    def slots(self) -> dict[str, CollectStep]:
        """Slot: the first step that collects it, in the order of the steps."""
        found: dict[str, CollectStep] = {}
        for step in self.steps:
            if isinstance(step, CollectStep):
                found.setdefault(step.collect, step)
        return found

    def all_slots(self) -> set[str]:
        """Slots that the flow fills in any way: asked for, set, or saved from an action's result."""
        found = set(self.slots())
        for step in self.steps:
            if isinstance(step, SetStep):
                found |= set(step.set)
            elif isinstance(step, ActStep):
                found |= set(step.save)
        return found

    def labels(self) -> dict[str, int]:
        """Label: index of its step."""
        return {step.label: index for index, step in enumerate(self.steps) if step.label is not None}


# --- actions and responses --------------------------------------------------------------------------------------------


class Http(Strict):
    """A call to a server: arguments as a JSON object (POST, PUT, PATCH) or in the query (GET, DELETE)."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$", max_length=2000)]
    timeout_seconds: Annotated[float, Field(gt=0, le=30)] = 3.0
    retries: Annotated[int, Field(ge=0, le=5)] = 2
    sign: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """The environment variable that holds the secret with which calls are signed (HMAC-SHA256)."""
    headers: dict[str, str] = Field(default_factory=dict)
    allow: Annotated[list[str], Field(min_length=1)]
    """Hosts that may be called: the one of `url`, and those it may lead on to."""

    @model_validator(mode="after")
    def _allowed(self) -> Http:
        try:
            host = urlsplit(self.url).hostname or ""
        except ValueError:
            host = ""
        if not host:
            raise ValueError(f"url {self.url} names no host; write https://host/path")
        if host not in self.allow:
            raise ValueError(f"url leads to {host}, which `allow` does not name; add it there")
        return self


class ActionConfig(Strict):
    """Something that is done outside of the conversation: a call to a server, or a registered Python function."""

    action: Name
    http: Http | None = None
    function: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> ActionConfig:
        if (self.http is None) == (self.function is None):
            raise ValueError("needs either `http` or `function`; give one of them")
        return self


def _texts_together(value: Any) -> Any:
    """Languages written at the top level go into `texts`."""
    if not isinstance(value, Mapping) or "texts" in value:
        return value
    texts: Any = {key: inner for key, inner in value.items() if isinstance(key, str) and re.fullmatch(r"[a-z]{2}", key)}
    rest = {key: inner for key, inner in value.items() if key not in texts}
    if "text" in rest and not texts:
        texts = rest.pop("text")
    return {**rest, "texts": texts}


class ResponseConfig(Strict):
    """What the bot says: variants per language, of which one is chosen; `{slot}` is filled in, nothing is evaluated."""

    response: Name
    texts: Texts = Field(default_factory=dict)
    """Written as the keys `ko`, `en`, …, or as `text` for the bot's first language."""
    channels: dict[str, Texts] = Field(default_factory=dict)
    """Channel: other variants there."""
    buttons: list[Button] = Field(default_factory=list)

    _together = model_validator(mode="before")(_texts_together)


# --- conversation tests -----------------------------------------------------------------------------------------------


Lines = Annotated[
    list[Line],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    WithJsonSchema(LINES_SCHEMA),
]
"""One or several; a plain string is one."""


class Expect(Strict):
    """What must hold after a turn. Each that is given is checked."""

    intent: Name | None = None
    flow: Name | Literal[False] | None = None
    """The flow that is under way; false: none."""
    faq: Name | None = None
    slot: dict[Name, Scalar | dict[str, Any] | list[Any] | None] = Field(default_factory=dict)
    text: Lines = Field(default_factory=list)
    """Each must be in what the bot says: a part of it, or a regular expression between slashes."""
    not_text: Lines = Field(default_factory=list)
    says: Name | None = None
    """The response that is among those said."""
    rung: Literal["answer", "confirm", "choose", "ask_again", "hand_over"] | None = None
    hand_over: bool | Line | None = None
    """Whether it is handed over, or the reason."""
    ended: bool | None = None
    """Whether the flow ended."""

    @field_validator("text", "not_text")
    @classmethod
    def _compile(cls, value: list[str]) -> list[str]:
        for one in value:
            if len(one) > 2 and one.startswith("/") and one.endswith("/"):
                try:
                    re.compile(one[1:-1])
                except (re.error, OverflowError, RecursionError) as error:
                    raise ValueError(f"{one} is no regular expression ({error})") from error
        return value


class TestStep(Strict):
    """A message and what must come of it, or minutes that pass."""

    __test__ = False  # pytest: this is no test class

    user: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    repeat: Annotated[int, Field(ge=1, le=100_000)] = 1
    """The message is this many times `user`."""
    expect: Expect = Expect()
    wait_minutes: Annotated[float, Field(gt=0)] | None = None

    @property
    def text(self) -> str:
        """The message."""
        return (self.user or "") * self.repeat

    @model_validator(mode="after")
    def _one(self) -> TestStep:
        if (self.user is None) == (self.wait_minutes is None):
            raise ValueError("needs either `user` or `wait_minutes`; give one of them")
        return self


class TestConfig(Strict):
    """A conversation and what must come of it."""

    __test__ = False

    test: Line
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")] | None = None
    channel: ChannelName = "rest"
    now: dt.datetime | None = None
    """The clock at the first message, in the bot's time zone; default: Monday 2026-03-02 10:00."""
    steps: Annotated[list[TestStep], Field(min_length=1, max_length=200)]

    def messages(self) -> Iterator[TestStep]:
        """The steps that say something."""
        return (step for step in self.steps if step.user is not None)
