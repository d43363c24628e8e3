"""Which anomaly model suits these surfaces? Judged on good pictures alone, and fitted.

In cross-validation each model is fitted on most of the good pictures and judges the rest, as they are and with painted
defects. That gives, without a single true defect: an estimate for choosing among the models, scores of good pictures
that the model had not seen, for thresholds, and the units in which `fusion` adds the models up. The painted defects by
which the discriminator is estimated are of other kinds than those it has learned from, or the estimate would only say
that it knows its own paint. Then the chosen model is fitted on everything.

    judged = cross_validate(examples, ["padim", "patchcore"], recipe)
    rows = estimates(judged, ["padim", "patchcore"])
    model, good_maps = fit_on_all(choose(rows), examples, judged, recipe)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.auroc import auroc, standard_error
from shared.progress import Stage, stage
from shared.training import anomaly
from shared.training.anomaly import Features, spread_of
from shared.training.heatmaps import scores_of

_T = TypeVar("_T")
_R = TypeVar("_R")

_FUSED = ("padim", "patchcore", "discriminator")
_SHARPNESS = 4
"""How fast a member's weight in `fusion` falls with its estimate; 6 all but drops one that misses what others find."""


@dataclass(frozen=True)
class Recipe:
    """What a fit takes besides pictures."""

    seed: int
    bank_bytes: int
    """Cap of PatchCore's memory bank."""


@dataclass
class Examples:
    """Features of good pictures and of copies with painted defects."""

    good: Features
    painted: Features
    masks: Tensor
    """bool [M, S, S]: where the paint is."""
    source: Tensor
    """[M] for each painted picture the index of the good one below the paint."""
    kind: Tensor
    """[M] what was painted, as a number."""


@dataclass(frozen=True)
class _Maps:
    """One model's maps in one fold: of the held-out good parts, and of those painted copies that it was asked about."""

    asked: Tensor
    """Indices of the painted copies."""
    good: Tensor
    painted: Tensor
    seconds: float


@dataclass
class Judged:
    """What cross-validation found of one model."""

    good: Tensor
    """Scores [N] of the good parts, each by a model that had not seen it."""
    painted: Tensor
    """Scores [M] of the painted copies; NaN where none was asked for."""
    maps: Tensor
    """Maps [N, G, G] of the good parts, each by a model that had not seen it."""
    seconds: float = 0.0

    @property
    def asked(self) -> NDArray[np.float32]:
        """Scores of the painted copies that it was asked about."""
        scores: NDArray[np.float32] = self.painted[~self.painted.isnan()].numpy()
        return scores

    @property
    def estimate(self) -> float:
        """AUROC of held-out good parts against painted defects."""
        return auroc(self.good.numpy(), self.asked) or 0.0

    def add(self, held: Tensor, maps: _Maps) -> None:
        """Take in a fold."""
        self.good[held] = scores_of(maps.good)
        self.painted[maps.asked] = scores_of(maps.painted)
        self.maps[held] = maps.good
        self.seconds += maps.seconds


def _members(name: str) -> tuple[str, ...]:
    return _FUSED if name == "fusion" else (name,)


def _fit(name: str, examples: Examples, good: Tensor, painted: Tensor, recipe: Recipe, seed: int) -> nn.Module:
    """One model that is no fusion, on some of the good pictures and (the discriminator) some of the painted ones."""
    generator = torch.Generator().manual_seed(seed)
    features = anomaly.select(examples.good, good)
    if name == "patchcore":
        return anomaly.PatchCore.fit(features, recipe.bank_bytes, generator)
    if name == "padim":
        return anomaly.Padim.fit(features, generator)
    samples = anomaly.PatchSamples.draw(
        features, anomaly.select(examples.painted, painted), examples.masks[painted], generator
    )
    return anomaly.Discriminator.fit(samples, generator)


def cross_validate(examples: Examples, names: list[str], recipe: Recipe) -> dict[str, Judged]:
    """Every model named, of `patchcore`, `padim`, `discriminator` and `fusion`, and what `fusion` is made of, judged on
    parts that it was not fitted on."""
    goods, painted = anomaly.count(examples.good), anomaly.count(examples.painted)
    singles = list(dict.fromkeys(member for name in names for member in _members(name)))
    side = examples.good[1].shape[-1]
    judged = {
        name: Judged(torch.zeros(goods), torch.full((painted,), torch.nan), torch.zeros(goods, side, side))
        for name in dict.fromkeys([*singles, *names])
    }
    folds = 5 if goods < 60 else 4
    order = torch.randperm(goods, generator=torch.Generator().manual_seed(recipe.seed))
    with stage("Comparing models", total=folds * len(singles)) as bar:

        def judge(fold: int) -> dict[str, _Maps]:
            return _judge_fold(examples, singles, order[fold::folds], fold, recipe, bar)

        found = _side_by_side(judge, range(folds))
    for name in singles:
        for fold, maps in enumerate(found):
            judged[name].add(order[fold::folds], maps[name])
    if "fusion" in judged:
        weights = _weights(judged)
        for fold, maps in enumerate(found):
            judged["fusion"].add(order[fold::folds], _fused_fold(maps, weights))
    return judged


def _weights(judged: dict[str, Judged]) -> list[float]:
    """How much each member counts in `fusion`.

    PaDiM and PatchCore by how well they tell painted defects: PaDiM is lost where parts lie anywhere in the picture,
    PatchCore where every part has a texture of its own. The discriminator, whose estimate is flattered, counts as much
    as the better of them.
    """
    skill = {name: max(0.05, 2 * judged[name].estimate - 1) for name in ("padim", "patchcore")}
    best = max(skill.values())
    return [(skill[name] / best) ** _SHARPNESS if name in skill else 1.0 for name in _FUSED]


def _side_by_side(work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Do the work for each item, one on each core.

    One thread for each model, not all threads for one after the other: the models' steps are so small that most of the
    time would go into waiting for each other, all the more where other programs run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)


def _judge_fold(
    examples: Examples, singles: list[str], held: Tensor, fold: int, recipe: Recipe, bar: Stage
) -> dict[str, _Maps]:
    """Fit on all good parts but `held`; maps of those and of their painted copies, for each model."""
    out = torch.zeros(anomaly.count(examples.good), dtype=torch.bool)
    out[held] = True
    unseen_kind = (examples.kind + fold) % 2 == 0
    taught = (~out[examples.source] & ~unseen_kind).nonzero()[:, 0]
    asked = (out[examples.source] & unseen_kind).nonzero()[:, 0]
    found = {}
    for name in singles:
        begun = time.perf_counter()
        model = _fit(name, examples, (~out).nonzero()[:, 0], taught, recipe, recipe.seed * 1000 + fold)
        good = anomaly.maps_of(model, anomaly.select(examples.good, held))
        painted = anomaly.maps_of(model, anomaly.select(examples.painted, asked))
        found[name] = _Maps(asked, good, painted, time.perf_counter() - begun)
        bar.advance()
    return found


def _fused_fold(maps: dict[str, _Maps], weights: list[float]) -> _Maps:
    parts = [maps[name] for name in _FUSED]
    factors = [weight / spread_of(part.good) for part, weight in zip(parts, weights, strict=True)]
    good = anomaly.fused([part.good for part in parts], factors)
    painted = anomaly.fused([part.painted for part in parts], factors)
    return _Maps(parts[0].asked, good, painted, sum(part.seconds for part in parts))


def estimates(judged: dict[str, Judged], names: list[str]) -> list[dict[str, Any]]:
    """A row for each model named: AUROC of held-out good parts against painted defects of unseen kinds."""
    rows = []
    for name in names:
        one = judged[name]
        estimate, painted = one.estimate, one.asked
        rows.append(
            {
                "model": name,
                "estimate": round(estimate, 4),
                "error": round(standard_error(estimate, len(one.good), len(painted)), 4),
                "good": len(one.good),
                "painted": len(painted),
                "seconds": round(one.seconds, 1),
                "chosen": False,
            }
        )
    return rows


def choose(rows: list[dict[str, Any]]) -> str:
    """Mark the best row; where `fusion` is within one standard error of it, `fusion`.

    The discriminator alone is chosen only where it was asked for: painted defects are what it has learned from, be
    they of other kinds, so that the estimate flatters it. On real defects it is the weakest of the four.
    """
    fit = [row for row in rows if row["model"] != "discriminator"] or rows
    best = max(fit, key=lambda row: float(row["estimate"]))
    for row in fit:
        if row["model"] == "fusion" and row["estimate"] >= best["estimate"] - best["error"]:
            best = row
    best["chosen"] = True
    return str(best["model"])


# -- the final model ------------------------------------------------------------------------------------------------


def fit_on_all(name: str, examples: Examples, judged: dict[str, Judged], recipe: Recipe) -> tuple[nn.Module, Tensor]:
    """The model fitted on all good parts, and maps [N, G, G] of those parts as if each had been left out of the fit.

    Thresholds are set on those maps. Those of cross-validation come from fewer parts, and a Gaussian in many dimensions
    finds everything the stranger the fewer it was fitted on: they would put the thresholds too high. The discriminator
    has no such bias, and no closed form.
    """
    everything = torch.arange(anomaly.count(examples.good))
    painted = torch.arange(anomaly.count(examples.painted))
    parts = _members(name)
    with stage(f"Fitting {name} on all good parts", total=len(parts)) as bar:

        def fit(part: str) -> tuple[nn.Module, Tensor]:
            model = _fit(part, examples, everything, painted, recipe, recipe.seed * 1000 + 999)
            if isinstance(model, anomaly.PatchCore | anomaly.Padim):
                maps = model.held_out_maps(examples.good)
            else:
                maps = judged[part].maps
            bar.advance()
            return model, maps

        fitted = _side_by_side(fit, parts)
    if name != "fusion":
        return fitted[0]
    spreads = [spread_of(maps) for _, maps in fitted]
    model = anomaly.Fusion([member for member, _ in fitted], spreads, _weights(judged))
    return model, anomaly.fused([maps for _, maps in fitted], model.factors)
