"""How good is a package on a data set, in its own metric? One answer for every solution, so that compression, search
and monitoring need not know any of them. No torch.

A manifest names its evaluator; what stands behind the name is found through the entry points of the group
`haechi.evaluators` (see pyproject.toml), so that a package can only ever choose among installed code:

    data = open_data(package, Path("parts"))
    before = data.evaluate(load(package).run)
    after = data.evaluate(load(smaller).run)
    drop = paired_drop(before, after)
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput, HaechiError
from shared.manifest import Manifest
from shared.package import Package

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""What `Model.run` is: inputs by name → outputs by name."""

GROUP = "haechi.evaluators"


@dataclass(frozen=True)
class Evaluation:
    """What a model answered on the samples of a data set, kept so that a bootstrap can ask again."""

    metric: str
    """Name of the metric; higher is better."""
    groups: NDArray[np.int64]
    """[N] samples are resampled within these groups (classes of a ranking metric, say); all 0 where any will do."""
    resampled: Callable[[NDArray[np.int64]], float]
    """The metric on the samples with these indices [M], repeats allowed."""
    extra: Mapping[str, float]
    """Other figures worth a line in a report."""
    answers: NDArray[np.int64] | None = None
    """[N] what was decided of each sample (class, verdict) as a number, where something is: two models that are equally
    good may still disagree."""

    @functools.cached_property
    def value(self) -> float:
        """The metric on all samples."""
        return self.resampled(np.arange(len(self.groups)))

    @property
    def samples(self) -> int:
        return len(self.groups)

    @property
    def smallest_group(self) -> int:
        """Samples in the smallest group: how fine the metric can be."""
        return int(np.unique(self.groups, return_counts=True)[1].min()) if self.samples else 0


class EvaluationData(abc.ABC):
    """A data set, opened for one kind of package."""

    @abc.abstractmethod
    def calibration(self, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        """Model inputs, one sample (batch of 1) each, from the training split; never from what `evaluate` uses."""

    @abc.abstractmethod
    def evaluate(self, run: Run) -> Evaluation:
        """The model's answers on the held-out split (`val`, else `test`), with progress."""

    def example(self) -> dict[str, np.ndarray]:
        """One input for timing: the first calibration sample."""
        return next(iter(self.calibration(1, 0)))


class Evaluator(abc.ABC):
    """Opens data sets for one kind of package."""

    assets: Mapping[str, bytes] = {}
    """The package's other files, by name below `assets/`; data may need them (a tokeniser) to become inputs."""

    @abc.abstractmethod
    def open(self, manifest: Manifest, data: Path) -> EvaluationData:
        """The data set at `data` as this package sees it.

        Raises:
            BadInput: no known layout, or labels that are not the package's.
        """


def evaluator_for(manifest: Manifest) -> Evaluator:
    """The evaluator that a manifest names.

    Raises:
        BadInput: it names none.
        HaechiError: nothing installed answers to the name.
    """
    name = manifest.evaluator
    if not name:
        raise BadInput(
            f"the manifest of {manifest.name} names no evaluator, so its accuracy cannot be measured; "
            f"make the package anew with this version of Haechi."
        )
    known = {point.name: point for point in entry_points(group=GROUP)}
    if name not in known:
        raise HaechiError(
            f"package {manifest.name} is judged by the evaluator {name!r}, which is not installed here; "
            f"installed: {', '.join(sorted(known)) or 'none'}."
        )
    evaluator: Evaluator = known[name].load()()
    return evaluator


def open_data(package: Package, data: Path) -> EvaluationData:
    """The data set at `data` as a package sees it, through the evaluator that its manifest names.

    Raises:
        BadInput: it names none; or no known layout, or labels that are not the package's.
        HaechiError: nothing installed answers to the name.
    """
    evaluator = evaluator_for(package.manifest)
    evaluator.assets = {name: package.asset(name) for name in package.assets}
    return evaluator.open(package.manifest, data)


@dataclass(frozen=True)
class Drop:
    """How much a metric fell from one model to another on the same samples (negative: it rose)."""

    point: float
    low: float
    high: float
    """Bounds of the 95 % interval of a paired bootstrap."""
    samples: int

    def allowed(self, most: float) -> tuple[bool, str]:
        """Whether a drop of `most` holds, and a warning where the data are too few to say so by the bound.

        Too few: even if no sample at all changed its answer, a true change rate of 3 / n would go unseen with 95 %
        confidence (the rule of three), and that is more than `most`.
        """
        if self.samples * most >= 3:
            return self.high <= most, ""
        needed = int(np.ceil(3 / most)) if most > 0 else 0
        enough = f"{needed} samples would be enough" if needed else "no number of samples can show a drop of 0"
        return (
            self.point <= most,
            f"{self.samples} samples are too few to bound a drop of {most:g}; the point {self.point:+.4f} "
            f"was taken ({enough}; the 95 % interval is {self.low:+.4f} to {self.high:+.4f}).",
        )


def paired_drop(before: Evaluation, after: Evaluation, *, rounds: int = 2000, seed: int = 0) -> Drop:
    """The drop of the metric with the interval of a paired bootstrap: both models are asked about the same resamples.

    Raises:
        ValueError: they were not evaluated on the same samples.
    """
    if not np.array_equal(before.groups, after.groups):
        raise ValueError("the two evaluations are not of the same samples")
    differences = [
        before.resampled(indices) - after.resampled(indices) for indices in _resamples(before.groups, rounds, seed)
    ]
    low, high = np.percentile(differences, (2.5, 97.5))
    return Drop(before.value - after.value, float(low), float(high), before.smallest_group)


def changed_answers(before: Evaluation, after: Evaluation) -> int | None:
    """Samples of which the two models decided differently; None where nothing is decided."""
    if before.answers is None or after.answers is None:
        return None
    return int(np.sum(before.answers != after.answers))


def interval(evaluation: Evaluation, *, rounds: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the metric."""
    values = [evaluation.resampled(indices) for indices in _resamples(evaluation.groups, rounds, seed)]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _resamples(groups: NDArray[np.int64], rounds: int, seed: int) -> Iterator[NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    members: Sequence[NDArray[np.int64]] = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    for _ in range(rounds):
        yield np.concatenate([generator.choice(each, len(each)) for each in members])


def mean_evaluation(metric: str, values: NDArray[np.float64], extra: Mapping[str, float] | None = None) -> Evaluation:
    """An evaluation whose metric is the mean of a value for each sample [N], such as 1 for a right answer."""
    return Evaluation(
        metric, np.zeros(len(values), dtype=np.int64), lambda indices: float(values[indices].mean()), extra or {}
    )
