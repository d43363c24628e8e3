"""Recipes of understanding: which features sentences are read by, and the choice among them.

light             hashed n-grams under a linear model, in English with a table of word vectors: under a millisecond
light-jamo        with the letters inside Korean syllables
light-morphemes   with Korean morphemes and their tags, where Kiwi is installed
light-content     with Korean content words and what they are made of
encoder           n-grams and the layers of a frozen sentence encoder
fine-tuned        the same on an encoder that was fine-tuned on the examples themselves first; minutes on a GPU
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared import weights
from shared.progress import stage
from shared.text import morphemes
from shared.text.features import Features, extract
from shared.text.tokenise import Tokeniser
from shared.training import blend, linear, sentence_layers
from shared.training.blend import Seen
from shared.training.sentence_layers import LayerEncoder

AUTO, LIGHT, JAMO, MORPHEMES, CONTENT = "auto", "light", "light-jamo", "light-morphemes", "light-content"
ENCODER, FINE_TUNED = "encoder", "fine-tuned"
_TRIED_ON = 1500
"""Examples on which recipes are compared: a part of each intent's."""
_FOLDS = 3
_WORTH = 0.005
"""Of accuracy: a slower recipe must be better by this much."""
_TIMED = 40
_HEAD_MS = 0.3
"""Of the linear layer and of what is around it."""


@dataclass(frozen=True)
class Recipe:
    """What sentences are read by."""

    name: str
    says: str
    features: Features
    encoder: LayerEncoder | None = None
    unseen: NDArray[np.int64] | None = None
    """Rows that the encoder was not fine-tuned on, the only ones to calibrate by; None: it was not fine-tuned."""

    def see(self, texts: Sequence[str]) -> Seen:
        """The sentences as the models see them."""
        counts = linear.counted(texts, self.features)
        if self.encoder is None:
            return Seen(counts, None)
        return Seen(counts, self.encoder.embed(texts), self.encoder.width)


@dataclass(frozen=True)
class Candidate:
    """A recipe as it was judged."""

    recipe: Recipe
    accuracy: float | None
    """By cross-validation; None where there was nothing to choose from."""
    milliseconds: float
    """Of one sentence, the 99th percentile on one thread."""
    chosen: bool


def candidates(
    korean: bool, wanted: str, encoder: str, texts: Sequence[str], targets: NDArray[np.int64], seed: int
) -> list[Recipe]:
    """Those to compare, from the quickest to the slowest; one kind where the author has chosen.

    Args:
        korean: whether Korean is among the examples. MiniLM knows English alone and is then left out, unless asked for.
        wanted: `auto`, or a kind of recipe that the author has chosen.
        encoder: the sentence encoder's name.
        texts, targets: [N] the examples and their classes, for an encoder that is to be fine-tuned on them.
    """
    features = _WITHOUT_SPACES if korean else _WITH_WORDS
    says = f"n-grams and layers of {encoder}"
    if wanted == FINE_TUNED:
        tuned, unseen = sentence_layers.fine_tuned(encoder, texts, targets, seed)
        return [Recipe(FINE_TUNED, f"{says}, fine-tuned", features, tuned, unseen)]
    found = [] if wanted == ENCODER else _light(korean)
    english_alone = encoder == weights.MINILM
    if wanted == ENCODER or (wanted == AUTO and not (korean and english_alone)):
        with stage(f"encoder {encoder}"):
            found.append(Recipe(ENCODER, says, features, sentence_layers.load(encoder)))
    return found


_WITH_WORDS = Features(jamo=(0, 0))
_WITHOUT_SPACES = Features(words=(0, 0), jamo=(0, 0), characters=(1, 3))
"""For Korean: text without spaces has no words. Three syllables say as much as five letters of English."""
_SLIPS = Features(words=(0, 0), characters=(1, 3))


def _light(korean: bool) -> list[Recipe]:
    if korean:
        found = [
            Recipe(LIGHT, "n-grams of characters", _WITHOUT_SPACES),
            Recipe(JAMO, "n-grams of characters and jamo", _SLIPS),
        ]
        if morphemes.available():
            # Endings and tags tell a question from a command; content words tell what it is about.
            richer = replace(_WITHOUT_SPACES, forms=(1, 3), tags=(3, 5))
            content = replace(_WITHOUT_SPACES, characters=(1, 2), morphemes=(1, 1), stems=(1, 2))
            found.append(Recipe(MORPHEMES, "n-grams of characters, Korean morphemes and their tags", richer))
            found.append(Recipe(CONTENT, "n-grams of characters and of Korean content words", content))
        return found
    static = sentence_layers.load_static()
    if static is None:
        return [Recipe(LIGHT, "n-grams of characters and words", _WITH_WORDS)]
    return [Recipe(LIGHT, "n-grams of characters and words, and a table of word vectors", _WITH_WORDS, static)]


def choose(
    tried: Sequence[Recipe],
    texts: Sequence[str],
    targets: NDArray[np.int64],
    budget_ms: float,
    seed: int,
) -> list[Candidate]:
    """Judge recipes on a part of the examples; the most accurate within the budget is chosen, of equals the quicker."""
    times = [_milliseconds(recipe, texts) for recipe in tried]
    if len(tried) == 1:
        return [Candidate(tried[0], None, times[0], chosen=True)]
    rows = _part(targets, seed)
    some, labels = [texts[row] for row in rows], targets[rows]
    accuracies = []
    with stage("comparing recipes", len(tried)) as bar:
        for recipe in tried:
            accuracies.append(_accuracy(recipe.see(some), labels, seed))
            bar.advance()
    within = [index for index in range(len(tried)) if times[index] <= budget_ms] or [int(np.argmin(times))]
    best = within[0]
    for index in within[1:]:  # from the quickest kind to the slowest
        if accuracies[index] >= accuracies[best] + _WORTH:
            best = index
    return [
        Candidate(recipe, accuracies[index], times[index], chosen=index == best) for index, recipe in enumerate(tried)
    ]


def _part(targets: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows of a part of the examples, as many of each intent as possible; three of each where there are so many."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(targets))
    place = np.empty(len(targets), dtype=np.int64)
    for label in np.unique(targets):
        members = order[targets[order] == label]
        place[members] = np.arange(len(members))
    each = max(3, _TRIED_ON // (int(targets.max()) + 1))
    return np.flatnonzero(place < each) if len(targets) > _TRIED_ON else np.arange(len(targets))


def _accuracy(seen: Seen, targets: NDArray[np.int64], seed: int) -> float:
    targets = np.unique(targets, return_inverse=True)[1]
    held = blend.cross_validate(seen, targets, None, _FOLDS, seed, missing=False)
    inside = held.targets >= 0
    if not inside.any():
        return 0.0
    logits = blend.averaged(held, blend.temperatures(held))
    return float((logits[inside].argmax(axis=1) == held.targets[inside]).mean())


def _milliseconds(recipe: Recipe, texts: Sequence[str]) -> float:
    """CPU time of one sentence at the 99th percentile: other work on the machine must not choose the recipe."""
    from shared.training.export import Session

    step = max(1, len(texts) // _TIMED)
    session = tokens = None
    if recipe.encoder is not None:
        session = Session(recipe.encoder.model, 1)
        tokens = Tokeniser(recipe.encoder.tokeniser, sentence_layers.MAX_LENGTH)
    taken = []
    extract(texts[0], recipe.features)  # Kiwi loads at its first sentence
    for text in texts[::step][:_TIMED]:
        started = time.process_time()
        extract(text, recipe.features)
        if session is not None and tokens is not None:
            session.run(tokens([text]))
        taken.append(time.process_time() - started)
    return float(np.percentile(taken, 99)) * 1000 + _HEAD_MS
