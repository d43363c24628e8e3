"""The `search:` section of a training's YAML: what may vary, and what is wanted.

    search:
      space:
        fit.lr: {low: 0.0001, high: 0.01, log: true}
        fit.batch_size: [16, 32, 64]
        model.image_size: {low: 128, high: 224, step: 32}
      objective: [accuracy, latency]
      trials: 30
      final: {fit.epochs: 60}

Keys of `space` and `final` are settings of the same file, written with dots. A range whose ends are whole numbers gives
whole numbers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, field_validator, model_validator

from shared.errors import BadInput
from shared.training.config import Strict, TrainConfig, parse, set_value

SECTIONS = ("data", "model", "augment", "fit", "distill")
"""What may be searched. Not the seed: the best of many seeds is luck, and would be reported as skill."""

Objective = Literal["accuracy", "latency"]
_MOST_GRID = 100_000


class Range(Strict):
    """Numbers from `low` to `high`, both included; whole ones if both are whole."""

    low: int | float
    high: int | float
    log: bool = False
    """Equally likely in every decade: for rates and weights."""
    step: Annotated[int | float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _possible(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.whole and self.step is not None and self.step != int(self.step):
            raise ValueError(f"step {self.step:g} between whole numbers must be whole; write low as {self.low:g}.0")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> list[Any]:
        """The least and the most."""
        return [self.low, self.high]

    def all(self) -> list[Any] | None:
        """Every value; None where there is no end of them."""
        if self.step is None and not self.whole:
            return None
        step = self.step or 1
        count = int((self.high - self.low) / step + 1e-9) + 1
        return [self.low + index * (int(step) if self.whole else step) for index in range(count)]

    def distribution(self) -> Any:
        """For Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def encode(self, value: Any) -> Any:
        """A value as Optuna keeps it."""
        return int(value) if self.whole else float(value)

    def decode(self, kept: Any) -> Any:
        """The value that Optuna keeps as `kept`."""
        return kept


class Choices(Strict):
    """One of these. They may be of any kind that YAML has, lists and sections too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    choices: Annotated[list[Any], Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> Choices:
        if len(set(self._labels())) != len(self.choices):
            raise ValueError("a choice is there twice")
        return self

    def _labels(self) -> list[str]:
        return [self.encode(choice) for choice in self.choices]

    def ends(self) -> list[Any]:
        """The first and the last."""
        return [self.choices[0], self.choices[-1]]

    def all(self) -> list[Any] | None:
        """Every choice."""
        return self.choices

    def distribution(self) -> Any:
        """For Optuna."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self._labels())

    def encode(self, value: Any) -> str:
        """A choice as Optuna keeps it: text, because a storage keeps no lists, and would call 1 and true the same."""
        return json.dumps(value, sort_keys=True, default=str)

    def decode(self, kept: str) -> Any:
        """The choice that Optuna keeps as `kept`."""
        return self.choices[self._labels().index(kept)]


class SearchConfig(Strict):
    """The section."""

    space: Annotated[dict[str, Range | Choices], Field(min_length=1)]
    objective: Annotated[list[Objective], Field(min_length=1, max_length=2)] = Field(
        default_factory=lambda: list[Objective](("accuracy",))
    )
    """`accuracy` is the task's own validation metric. `latency` is milliseconds a call on this machine."""
    trials: Annotated[int, Field(ge=1)] = 20
    """In all, by all processes together."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """No trial is begun later than this after the command; the one under way is ended in peace."""
    sampler: Literal["tpe", "gp", "nsga2", "random", "grid"] = "tpe"
    """`gp` (Gaussian process) where trials are few and dear; `nsga2` where they are many; `grid` tries everything."""
    pruner: Literal["median", "hyperband", "none"] | None = None
    """Ends trials early that do badly. Default: median; none with two objectives, where nothing tells "badly"."""
    startup: Annotated[int, Field(ge=1)] = 10
    """Random trials before `tpe` and `gp` start to choose; half as many before the median pruner ends any."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Of the trials within it, the most accurate is re-trained. Default: the most accurate of all."""
    threads: Annotated[int, Field(ge=1)] = 1
    """With which latency is measured."""
    rounds: Annotated[int, Field(ge=6)] = 50
    """Of that measurement."""
    storage: Literal["auto", "sqlite", "journal"] = "auto"
    """`auto`: a journal where several processes are started at once, else SQLite. Either may be shared by processes."""
    final: dict[str, Any] = Field(default_factory=dict)
    """Settings on top of the best trial's when it is re-trained, such as `fit.epochs: 60`."""

    @field_validator("space", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`[16, 32]` is short for `{choices: [16, 32]}`; and one kind of entry is chosen here, so that what is wrong
        with it is said in the terms of that kind."""
        if not isinstance(value, Mapping):
            return value
        return {key: _entry(str(key), given) for key, given in value.items()}

    @field_validator("objective", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _possible(self) -> SearchConfig:
        if self.objective[0] != "accuracy" or len(set(self.objective)) != len(self.objective):
            raise ValueError("objective must be accuracy or [accuracy, latency]")
        if self.by_latency and self.pruner not in (None, "none"):
            raise ValueError("pruner must be none with two objectives: a quick model that learns badly may be wanted")
        if self.max_latency_ms is not None and not self.by_latency:
            raise ValueError("max_latency_ms needs the objective [accuracy, latency]")
        if self.sampler == "grid":
            self.grid()
        return self

    @property
    def by_latency(self) -> bool:
        return "latency" in self.objective

    @property
    def pruning(self) -> str:
        return self.pruner or ("none" if self.by_latency else "median")

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, in an order that does not depend on that of the keys."""
        values = {}
        for key in sorted(self.space):
            every = self.space[key].all()
            if every is None:
                raise ValueError(f"sampler grid needs a step for {key}, or choices")
            values[key] = every
        if (total := int(np.prod([float(len(each)) for each in values.values()]))) > _MOST_GRID:
            raise ValueError(f"sampler grid would have {total} combinations; use another sampler")
        return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def _entry(key: str, given: Any) -> Range | Choices:
    if isinstance(given, Range | Choices):
        return given
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = {"choices": given}
    if not isinstance(given, Mapping):
        raise ValueError(f"{key} must be a range such as {{low: 1, high: 9}} or a list of choices, not {given!r}")
    try:
        return parse(Choices, given, key) if "choices" in given else parse(Range, given, key)
    except BadInput as error:
        raise ValueError(str(error)) from error


def read_search(config: TrainConfig, where: str) -> SearchConfig:
    """Check the `search` section of a configuration, and that every setting it names is one.

    Args:
        where: the file, for messages.

    Raises:
        BadInput: it is empty or wrong, or names an unknown setting; the sentence names the nearest known one.
    """
    if not config.search:
        raise BadInput(f"{where} has no search section; add one, such as search: {{space: {{fit.lr: [0.001, 0.01]}}}}.")
    section = parse(SearchConfig, config.search, f"{where}: search")
    for key, entry in section.space.items():
        _check_key(key, f"{where}: search.space")
        for value in entry.all() or entry.ends() if isinstance(entry, Choices) else entry.ends():
            with_settings(config, {key: value}, f"{where}: search.space")
    for key in section.final:
        _check_key(key, f"{where}: search.final")
    with_settings(config, section.final, f"{where}: search.final")
    return section


def _check_key(key: str, where: str) -> None:
    known = (*SECTIONS, *(name for name in TrainConfig.model_fields if name not in SECTIONS))
    head, dot, _ = key.partition(".")
    if head in known and head not in SECTIONS:
        raise BadInput(f"{where}: {key} cannot be searched; the settings below {', '.join(SECTIONS)} can.")
    if head in SECTIONS and not dot:
        raise BadInput(f"{where}: {key} is a section; name a setting in it, such as fit.lr.")


def with_settings(config: TrainConfig, settings: Mapping[str, Any], where: str) -> TrainConfig:
    """The configuration with some settings, given with dots, put in place of its own.

    Raises:
        BadInput: one is unknown or has an impossible value.
    """
    raw = config.model_dump(mode="json", exclude_unset=True)
    for key, value in settings.items():
        set_value(raw, key, value)
    return parse(TrainConfig, raw, where)
