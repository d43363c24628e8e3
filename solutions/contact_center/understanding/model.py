"""The model of a bot's package, asked about sentences: which class, how surely in scope, and its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared import runtime
from shared.errors import BadInput
from shared.package import Package, open_package
from shared.text.features import normalise
from shared.text.inputs import TextInputs

TASK = "bot"
FAQ = "faq:"
"""Before the names of questions among the labels."""


@dataclass(frozen=True)
class Answer:
    """About one sentence."""

    probabilities: NDArray[np.float32]
    """[C] over the labels; they sum to 1."""
    scope: float
    """P(in scope), calibrated."""
    scope_score: float
    """The same before calibration; higher is more surely in scope."""
    embedding: NDArray[np.float32] | None
    """[D] of unit length; None without an encoder."""


class Classifier:
    """Thread-safe."""

    def __init__(self, package: Package | Path | str, threads: int = 1) -> None:
        """
        Raises:
            BadInput: it is no package of a bot.
            PackageRefused: it fails verification or its self-test.
        """
        opened = package if isinstance(package, Package) else open_package(package)
        if opened.manifest.task != TASK:
            raise BadInput(
                f"{opened.path} is for {opened.manifest.task!r} and not a bot's; make one with `haechi bot train`."
            )
        self.package, self.manifest = opened, opened.manifest
        self.labels = tuple(opened.manifest.labels)
        self._inputs = TextInputs.of(opened.manifest, {name: opened.asset(name) for name in opened.assets})
        self._model = runtime.load(opened, provider="cpu", threads=threads)
        self.ask("안녕하세요")  # Kiwi, where the package reads morphemes, loads at its first sentence

    def ask(self, text: str) -> Answer:
        """What the model says of one sentence; of an empty one that it is out of scope."""
        outputs = self._model.run(self._inputs([normalise(text)]))  # tokenisers do not know all forms of a letter
        embedding = outputs.get("embedding")
        return Answer(
            outputs["probabilities"][0],
            float(outputs["scope"][0]),
            float(outputs["scope_score"][0]),
            None if embedding is None else embedding[0],
        )

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """[N, D], one sentence at a time as `ask` does; None without an encoder."""
        found = [self.ask(text).embedding for text in texts]
        known = [each for each in found if each is not None]
        return np.stack(known) if known else None
