"""How compression, search and monitoring measure an inspection package: image AUROC on raw scores, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.dataset import Item, scan
from shared.auroc import auroc
from shared.errors import BadInput
from shared.evaluation import Evaluation, EvaluationData, Evaluator, Run
from shared.images import read_image
from shared.manifest import Manifest
from shared.progress import track
from solutions.inspection.pipeline import TASK, THRESHOLDS, decide

METRIC = "image_auroc"
_VERDICTS = ("OK", "REVIEW", "NG")


class InspectionEvaluator(Evaluator):
    """For packages of the task `inspection`."""

    def open(self, manifest: Manifest, data: Path) -> InspectionData:
        """A folder as `data_tools.dataset.scan` knows it.

        Good parts to calibrate with are those of `train`; in the layout of `good` and `bad` every other good part, and
        the rest is judged.

        Raises:
            BadInput: another task, no known layout, or nothing to calibrate with or to judge.
        """
        if manifest.task != TASK:
            raise BadInput(f"package {manifest.name} is for {manifest.task}; this measures packages for {TASK}.")
        missing = [name for name in THRESHOLDS if name not in manifest.thresholds]
        if missing:
            raise BadInput(f"package {manifest.name} has no threshold {missing[0]} in its manifest; train it again.")
        found = scan(data, need_good=0)
        if found.layout == "mvtec":
            teaching, good = found.train_good, found.test_good
        else:
            goods = [item for item in found.items if item.is_good]
            teaching, good = goods[::2], goods[1::2]
        for what, items, folder in (
            ("good parts to calibrate with", teaching, "train/good"),
            ("good parts to judge", good, "test/good"),
            ("defective parts to judge", found.bad, "test/<defect>"),
        ):
            if not items:
                raise BadInput(f"{data} has no usable pictures of {what}; add some to {folder}.")
        thresholds = {name: manifest.thresholds[name].value for name in THRESHOLDS}
        return InspectionData(teaching, good, found.bad, thresholds)


class InspectionData(EvaluationData):
    """Pictures of good parts to calibrate with, and of good and defective ones to judge."""

    def __init__(
        self, teaching: Sequence[Item], good: Sequence[Item], bad: Sequence[Item], thresholds: dict[str, float]
    ) -> None:
        self._teaching, self._good, self._bad = list(teaching), list(good), list(bad)
        self._thresholds = thresholds

    def calibration(self, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        """Good parts of the training split, in an order that the seed decides."""
        for index in np.random.default_rng(seed).permutation(len(self._teaching))[:count]:
            yield self._inputs(self._teaching[index])

    def evaluate(self, run: Run) -> Evaluation:
        """Image AUROC; resampled within good and defective parts. Answers are the verdicts."""
        scores, answers = [], []
        for item in track([*self._good, *self._bad], "judging"):
            inputs = self._inputs(item)
            height, width = inputs["image"].shape[1:3]
            decision = decide(run(inputs), self._thresholds, width, height)
            scores.append(decision.score)
            answers.append(_VERDICTS.index(decision.verdict))
        groups = np.array([0] * len(self._good) + [1] * len(self._bad), dtype=np.int64)
        every, verdicts = np.array(scores), np.array(answers, dtype=np.int64)

        def resampled(indices: NDArray[np.int64]) -> float:
            picked, bad = every[indices], groups[indices] == 1
            return float(auroc(picked[~bad], picked[bad]) or 0.0)

        return Evaluation(METRIC, groups, resampled, _rates(verdicts, groups), verdicts)

    def _inputs(self, item: Item) -> dict[str, np.ndarray]:
        threshold = np.array([self._thresholds["pixel"]], dtype=np.float32)
        return {"image": read_image(item.path)[None], "pixel_threshold": threshold}


def _rates(verdicts: NDArray[np.int64], groups: NDArray[np.int64]) -> dict[str, float]:
    """`overkill`, `escape` and `review`, as `haechi inspection evaluate` reports them."""
    ok, review, ng = range(3)
    return {
        "overkill": float(np.mean(verdicts[groups == 0] == ng)),
        "escape": float(np.mean(verdicts[groups == 1] == ok)),
        "review": float(np.mean(verdicts == review)),
    }
