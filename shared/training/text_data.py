"""What the tasks on sentences share: the section `data`, and reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.errors import BadInput
from shared.text.labelled import HOLD_OUT, LabelledTexts, read
from shared.training.config import Strict, TrainConfig, parse


class Data(Strict):
    """The section `data`; layouts as in `shared.text.labelled`."""

    path: Path
    text: str = "text"
    """Name of the column or key that holds the sentence."""
    label: str = "label"
    hold_out: Annotated[float, Field(gt=0, lt=1)] = HOLD_OUT
    """Share of each label to validate on, where there is no split `val`."""


def labelled(config: TrainConfig) -> LabelledTexts:
    """The sentences that a configuration names, with at least two labels and something to validate on.

    Raises:
        BadInput: the section is wrong, or the data are.
    """
    data = parse(Data, config.data, "data")
    found = read(data.path, text=data.text, label=data.label, hold_out=data.hold_out, seed=config.seed)
    if len({each.label for each in found.train}) < 2:
        raise BadInput(f"data.path {data.path} has fewer than 2 labels to train on; add sentences of another one.")
    if not found.val:
        # Never the test split: a model chosen by it has nothing left to be judged on.
        raise BadInput(
            f"data.path {data.path} has no sentences to validate on; add a split `val`, or leave `test` out."
        )
    return found
