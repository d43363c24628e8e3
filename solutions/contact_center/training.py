"""A bot's folder, or a plain table, becomes a model package: `train`.

Which features a bot needs is not asked of its author: recipes are compared by cross-validation on a part of the
examples, the best that answers within the latency budget is fitted on all of them, and what it does not see on the way
calibrates its probabilities and chooses its thresholds.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.lineage import code_revision
from shared.manifest import Lineage, Manifest, TensorSpec, WeightsLicence
from shared.package import Golden, write_package
from shared.progress import stage
from shared.text import morphemes
from shared.text.inputs import TextInputs
from shared.text.tokenise import ASSET, Tokeniser
from shared.training import blend, blend_graph, sentence_layers
from shared.training.blend import Blend, Hidden, Part, Scope
from shared.training.export import Session
from shared.training.packaging import package_name
from shared.training.recipes import Candidate, Recipe, candidates, choose
from shared.training.sentence_layers import LayerEncoder
from solutions.contact_center import evaluation, thresholds, training_report
from solutions.contact_center.config import OOS, Bot, Costs, Model
from solutions.contact_center.tables import Utterances, classes
from solutions.contact_center.understanding.model import FAQ, TASK
from solutions.contact_center.understanding.understander import BOT_ASSET, ENTITIES_ASSET

SECONDS = "train_seconds"
"""Among the metrics: from reading the examples to the finished graph."""
_GOLDEN = 4
_MANY, _SOME = 6000, 1500
"""Examples from which one fold, and three, are enough to calibrate by."""


@dataclass(frozen=True)
class Trained:
    """What `train` made."""

    path: Path
    manifest: Manifest
    candidates: list[Candidate]
    chosen: thresholds.Chosen
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Material:
    """Examples to train on."""

    texts: list[str]
    targets: NDArray[np.int64]
    labels: list[str]
    outside: list[str]
    fingerprint: str

    @property
    def korean(self) -> bool:
        """Whether Korean is among them, in more than a few."""
        return sum(any("가" <= each <= "힣" for each in text) for text in self.texts) > 0.05 * len(self.texts)


def from_table(table: Utterances) -> Material:
    """BadInput with fewer than two intents."""
    labels = classes(table.intents)
    return _material(table.texts, table.intents, labels, table.fingerprint, str(table.source))


def from_bot(bot: Bot) -> Material:
    """The bot's own examples, its questions as classes beside them, and the patterns' of its languages.

    Raises:
        BadInput: fewer than two intents.
    """
    from solutions.contact_center.dialogue import patterns

    pairs = [(example.text, name) for name, intent in bot.intents.items() for example in intent.examples]
    pairs += [(text, FAQ + name) for name, faq in bot.faqs.items() for text in faq.questions]
    for language in bot.settings.languages:
        pairs += [(text, name) for name, texts in patterns.examples(language).items() for text in texts]
    pairs = list(dict.fromkeys(pairs))
    labels = sorted({name for _, name in pairs} - {OOS})
    texts, names = [text for text, _ in pairs], [name for _, name in pairs]
    return _material(texts, names, labels, bot.fingerprint, str(bot.folder or bot.settings.name))


def _material(texts: list[str], names: list[str], labels: list[str], fingerprint: str, source: str) -> Material:
    if len(labels) < 2:
        raise BadInput(f"{source} has fewer than two intents to tell apart; add examples of another one.")
    number = {label: index for index, label in enumerate(labels)}
    inside = [index for index, name in enumerate(names) if name != OOS]
    targets = np.array([number[names[index]] for index in inside], dtype=np.int64)
    outside = [text for text, name in zip(texts, names, strict=True) if name == OOS]
    return Material([texts[index] for index in inside], targets, labels, outside, fingerprint)


def train(
    material: Material,
    destination: Path,
    *,
    bot: Bot | None = None,
    model: Model | None = None,
    costs: Costs | None = None,
    seed: int = 0,
    name: str = "",
    signing_key: Path | None = None,
) -> Trained:
    """Train and write the package in one step, in the place of one that is there.

    Args:
        bot: goes into the package with its entities; None for a table.
        model, costs: default those of the bot, else the defaults.

    Raises:
        BadInput: the recipe or the encoder is unknown, or cannot be had here.
    """
    started = time.monotonic()
    model = model or (bot.settings.model if bot else Model())
    costs = costs or (bot.settings.costs if bot else Costs())
    tried = candidates(material.korean, model.recipe, model.encoder, material.texts, material.targets, seed)
    rows = choose(tried, material.texts, material.targets, model.latency_ms, seed)
    recipe = next(row.recipe for row in rows if row.chosen)
    fitted = _fit(material, recipe, costs, seed)
    fitted.metrics[SECONDS] = time.monotonic() - started
    manifest, assets, graph, golden = _packed(material, fitted, recipe, bot, rows, seed, name, destination, model)
    write_package(destination, manifest, graph, golden, assets, signing_key=signing_key, replace=destination.exists())
    return Trained(
        destination, manifest, rows, fitted.chosen, manifest.metrics[SECONDS], evaluation.package_bytes(destination)
    )


# -- fitting ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fitted:
    model: Blend
    part: Part
    hidden: Hidden | None
    scope: Scope
    chosen: thresholds.Chosen
    judged: thresholds.Judged
    metrics: dict[str, float]


def _fit(material: Material, recipe: Recipe, costs: Costs, seed: int) -> _Fitted:
    started = time.monotonic()
    seen = recipe.see(material.texts)
    outside = recipe.see(material.outside) if material.outside else None
    count = len(material.texts)
    folds = 1 if count > _MANY or recipe.unseen is not None else 3 if count > _SOME else 5
    with stage("fitting", folds + 1) as bar:
        held = blend.cross_validate(seen, material.targets, outside, folds, seed, bar, held=recipe.unseen)
        fitted = blend.fit(seen, material.targets, seed)
        bar.advance()
    temperatures = blend.temperatures(held)
    logits = blend.averaged(held, temperatures)
    scope = blend.scope(held, logits, thresholds.OUTSIDE_SHARE)
    score = scope.score(logits.max(axis=1), held.nearest)
    inside = held.targets >= 0
    confidence = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence /= confidence.sum(axis=1, keepdims=True)
    right = logits.argmax(axis=1) == held.targets
    judged = thresholds.Judged(confidence.max(axis=1).astype(np.float64), right, scope.probability(score), inside)
    chosen = thresholds.choose(judged, costs)
    metrics = {
        "accuracy": float(right[inside].mean()),
        "macro_f1": evaluation.macro_f1(held.targets[inside], logits[inside].argmax(axis=1)),
        "ece": evaluation.expected_calibration_error(judged.confidence[inside], right[inside]),
        "examples": float(count),
        "fit_seconds": time.monotonic() - started,
    }
    return _Fitted(fitted, *fitted.merged(temperatures), scope, chosen, judged, metrics)


# -- the package --------------------------------------------------------------------------------------------------


def _packed(
    material: Material,
    fitted: _Fitted,
    recipe: Recipe,
    bot: Bot | None,
    rows: list[Candidate],
    seed: int,
    name: str,
    destination: Path,
    model: Model,
) -> tuple[Manifest, dict[str, bytes], bytes, Golden]:
    encoder = recipe.encoder
    graph = blend_graph.write(fitted.part, fitted.hidden, fitted.model.idf, fitted.scope, fitted.model.bank, encoder)
    tokens = Tokeniser(encoder.tokeniser, sentence_layers.MAX_LENGTH) if encoder else None
    reader = TextInputs(tokens, recipe.features)
    session = Session(graph, 1)
    # One sentence: of several, dynamic rounding in the encoder would depend on the others.
    golden_inputs = reader(material.texts[:1] if encoder else material.texts[:_GOLDEN])
    answers = session.run(golden_inputs)
    count = len(material.labels)
    shapes = {"logits": [-1, count], "probabilities": [-1, count], "scope_score": [-1], "scope": [-1]}
    if encoder is not None:
        shapes["embedding"] = [-1, encoder.width]
    assets = {ASSET: encoder.tokeniser} if encoder else {}
    if bot is not None:
        assets[BOT_ASSET] = _json(bot.as_dict())
        weights = _learned_entities(bot, seed)
        if weights is not None:
            assets[ENTITIES_ASSET] = _json(weights)
    manifest = Manifest(
        name=name or (bot.settings.name if bot else package_name(destination)),
        version="1",
        task=TASK,
        description=f"{recipe.name}: {recipe.says}; {count} labels from {len(material.texts)} examples",
        inputs=reader.specs(),
        outputs=[TensorSpec(name=each, datatype="FP32", shape=shape) for each, shape in shapes.items()],
        preprocessing=reader.preprocessing(),
        labels=material.labels,
        thresholds=fitted.chosen.thresholds,
        metrics=fitted.metrics,
        metric="accuracy",
        evaluator="text-classification",
        lineage=_lineage(material, recipe, model, seed),
        weights=_licences(encoder),
    )
    assets["report.html"] = training_report.page(manifest, rows, fitted.chosen, fitted.judged).encode("utf-8")
    golden = Golden(golden_inputs, {each: answers[each] for each in shapes})
    return manifest, assets, graph, golden


def _licences(encoder: LayerEncoder | None) -> list[WeightsLicence]:
    return [encoder.licence] if encoder else []


def _lineage(material: Material, recipe: Recipe, model: Model, seed: int) -> Lineage:
    settings: dict[str, Any] = {
        "data": {"text": "text", "label": "intent"},
        "model": model.model_dump(mode="json"),
        "recipe": recipe.name,
        "features": asdict(recipe.features),
    }
    if recipe.features.needs_kiwi:
        settings["kiwipiepy"] = morphemes.version()
    return Lineage(
        data_fingerprint=material.fingerprint,
        code_revision=code_revision(),
        seed=seed,
        settings=settings,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _learned_entities(bot: Bot, seed: int) -> dict[str, Any] | None:
    """Weights of the entities that are learned from marked examples; None where there are none."""
    from solutions.contact_center.entities import learned

    names = {name for name, entity in bot.entities.items() if entity.kind == "learned"}
    examples = [
        (one.text, [(mark.start, mark.end, mark.entity) for mark in one.marks if mark.entity in names])
        for intent in bot.intents.values()
        for one in intent.examples
    ]
    if not any(spans for _, spans in examples):
        return None
    return learned.fit(examples, seed=seed)


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8")
