"""A bot's folder: what may be written in it, and `load(folder)`, which reads it all into one `Bot`.

    bot.yaml   intents/   entities/   faq/   flows/   actions/   responses/   tests/

Each folder holds any number of YAML files, and each file a list; instead of a folder, one file may stand beside
`bot.yaml` (`faq.yaml`). `load` raises one `BadInput` that lists every mistake with its file and line.
`Bot.as_dict()` is what a model package carries, so that a package needs no folder. Everything is found by its name:
`bot.flows["change_plan"].steps`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import BadInput
from solutions.contact_center.bot_models import (
    BUILTIN_ENTITIES,
    OOS,
    RESERVED_INTENTS,
    WHOLE_TEXT,
    Button,
    Channel,
    Costs,
    EntityConfig,
    Example,
    FaqConfig,
    Hours,
    IntentConfig,
    Mark,
    Model,
    Policies,
    Settings,
    Strict,
    Text,
    Texts,
    Thresholds,
    in_language,
)
from solutions.contact_center.flow_models import (
    STEPS,
    ActionConfig,
    ActStep,
    AnyStep,
    BranchStep,
    Case,
    Check,
    CollectStep,
    Condition,
    ConfirmStep,
    EndStep,
    Expect,
    FlowConfig,
    GotoStep,
    HandOverStep,
    Http,
    ResponseConfig,
    SayStep,
    SetStep,
    Step,
    TestConfig,
    TestStep,
    moment,
)

__all__ = [
    "BUILTIN_ENTITIES",
    "OOS",
    "RESERVED_INTENTS",
    "STEPS",
    "WHOLE_TEXT",
    "ActStep",
    "ActionConfig",
    "AnyStep",
    "Bot",
    "BranchStep",
    "Button",
    "Case",
    "Channel",
    "Check",
    "CollectStep",
    "Condition",
    "ConfirmStep",
    "Costs",
    "EndStep",
    "EntityConfig",
    "Example",
    "Expect",
    "FaqConfig",
    "FlowConfig",
    "GotoStep",
    "HandOverStep",
    "Hours",
    "Http",
    "IntentConfig",
    "Mark",
    "Model",
    "Policies",
    "ResponseConfig",
    "SayStep",
    "SetStep",
    "Settings",
    "Step",
    "TestConfig",
    "TestStep",
    "Text",
    "Texts",
    "Thresholds",
    "in_language",
    "load",
    "moment",
]


class Bot(BaseModel):
    """A whole bot. Its parts are found by name; `folder` is None where it came out of a package."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    settings: Settings
    intents: dict[str, IntentConfig] = {}
    entities: dict[str, EntityConfig] = {}
    faqs: dict[str, FaqConfig] = {}
    flows: dict[str, FlowConfig] = {}
    actions: dict[str, ActionConfig] = {}
    responses: dict[str, ResponseConfig] = {}
    tests: dict[str, TestConfig] = {}
    folder: Path | None = Field(default=None, exclude=True)

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it; `from_dict` gives an equal bot back, but for `folder`."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Bot:
        """The bot that `as_dict` wrote.

        Raises:
            BadInput: it is none.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"bot: {where}: {first['msg']}; train the package again from the bot's folder.") from error

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is in the folder, whichever way it is spread over files, comments and spaces left out."""
        canonical = json.dumps(self.as_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    def flow_of(self, intent: str) -> FlowConfig | None:
        """The flow that an intent starts, if it starts one."""
        config = self.intents.get(intent)
        if config is not None and config.response is not None and config.flow is None:
            return None
        return self.flows.get((config.flow if config else None) or intent)

    def title_of(self, intent: str, language: str) -> str:
        """How an intent or a question is named to the customer."""
        config = self.intents.get(intent)
        flow = self.flow_of(intent)
        for titles in (config.title if config else {}, flow.title if flow else {}):
            found = in_language(titles, language)
            if found:
                return found
        return intent.replace("_", " ")


SECTIONS: dict[str, tuple[str, type[Strict], str]] = {
    "intents": ("intent", IntentConfig, "intents"),
    "entities": ("entity", EntityConfig, "entities"),
    "faq": ("faq", FaqConfig, "faqs"),
    "flows": ("flow", FlowConfig, "flows"),
    "actions": ("action", ActionConfig, "actions"),
    "responses": ("response", ResponseConfig, "responses"),
    "tests": ("test", TestConfig, "tests"),
}
"""Folder: the key that names an item, its model, and the attribute of `Bot`."""


def load(folder: Path | str) -> Bot:
    """Read a bot's folder.

    Raises:
        BadInput: every mistake in it, a line each: `FILE:LINE: field: what; mend.`
    """
    from solutions.contact_center.folder import read_source

    try:
        source, bot = read_source(Path(folder))
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder} cannot be read ({error.strerror}); check its permissions."
        ) from error
    source.mistakes.refuse()
    assert bot is not None
    return bot
