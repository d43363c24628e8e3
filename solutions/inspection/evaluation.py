"""Judging a model package on a data set: the field's metrics, the verdicts, the time, the size.

What the keys mean (shares from 0 to 1, `null` where the data cannot say):

* `image_auroc`: on raw scores, defective against good pictures, with a bootstrap interval in `image_auroc_interval`.
* `pixel_auroc`, `aupro`: over defective pictures that have a mask and over good ones. The heat map is stretched
  bilinearly to the size of the mask (good pictures: to their own size) and compared there.
* `overkill`: good parts judged NG, of all good parts. `good_not_ok`: good parts judged REVIEW or NG; this is the rate
  that `--max-overkill` asks for.
* `escape`: defective parts judged OK, of all defective parts.
* `review`: parts sent to a person (REVIEW), of all parts.
* `latency_ms_p50`, `latency_ms_p95`: one picture through `pipeline.py`, without reading and decoding the file.

Judged is the `test` split. In the layouts without one (`good` and `bad`, or `good` alone) every picture is judged: they
are then taken as new parts, and a model trained on them looks better than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data_tools.dataset import DatasetReport, Item, scan
from shared.auroc import auroc, auroc_interval
from shared.errors import BadInput
from shared.images import Rgb, read_image, read_mask
from solutions.inspection.metrics import PixelMeter, clopper_pearson

if TYPE_CHECKING:
    from shared.runtime import Model
    from solutions.inspection.pipeline import Decision, Inspector

Progress = Callable[[int, int], None]


class Judge(Protocol):
    """Whatever inspects a picture, uint8 [H, W, 3] RGB; `pipeline.Inspector` is one."""

    def inspect(self, image: Rgb) -> Decision:
        """The decision on one picture."""


@dataclass(frozen=True)
class Judged:
    """What became of one picture."""

    item: Item
    score: float
    verdict: str
    regions: int
    latency_ms: float


@dataclass
class Evaluation:
    """Everything that was measured; `metrics` is what `--json` writes."""

    judged: list[Judged]
    data: DatasetReport
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def good_scores(self) -> list[float]:
        return [one.score for one in self.judged if one.item.is_good]

    @property
    def bad_scores(self) -> list[float]:
        return [one.score for one in self.judged if not one.item.is_good]

    def worst_good(self, count: int) -> list[Judged]:
        """The good parts with the highest scores, highest first."""
        return sorted((one for one in self.judged if one.item.is_good), key=lambda one: -one.score)[:count]

    def best_bad(self, count: int) -> list[Judged]:
        """The defective parts with the lowest scores, lowest first: the next to escape."""
        return sorted((one for one in self.judged if not one.item.is_good), key=lambda one: one.score)[:count]


def items_to_judge(data: DatasetReport) -> list[Item]:
    """The `test` split, or every picture in a layout without one. BadInput if there is none."""
    items = [item for item in data.items if item.split == "test"] if data.layout == "mvtec" else list(data.items)
    if not items:
        raise BadInput(f"{data.root} has no pictures to judge; put some into test/good and test/<kind of defect>.")
    return items


def evaluate(judge: Judge, data: DatasetReport, *, seed: int = 0, progress: Progress | None = None) -> Evaluation:
    """Judge every picture of a data set, one by one, and measure.

    Args:
        judge: the model through `pipeline.py`.
        data: what `data_tools.dataset.scan` found.
        seed: of the bootstrap.
        progress: called with (pictures judged, pictures in all).

    Memory does not grow with the number of pictures, except for a score each.
    """
    items = items_to_judge(data)
    meter = PixelMeter()
    judged: list[Judged] = []
    for item in items:
        image = read_image(item.path)
        decision = judge.inspect(image)
        _measure_pixels(meter, item, image, decision)
        judged.append(Judged(item, decision.score, decision.verdict, len(decision.regions), decision.latency_ms))
        if progress is not None:
            progress(len(judged), len(items))
    evaluation = Evaluation(judged, data)
    evaluation.metrics = _metrics(evaluation, meter, seed)
    return evaluation


def _measure_pixels(meter: PixelMeter, item: Item, image: Rgb, decision: Decision) -> None:
    if item.is_good:
        meter.add(decision.heatmap, np.zeros(image.shape[:2], dtype=bool))
    elif item.mask is not None:
        meter.add(decision.heatmap, read_mask(item.mask))


def _metrics(evaluation: Evaluation, meter: PixelMeter, seed: int) -> dict[str, Any]:
    judged = evaluation.judged
    good = [one for one in judged if one.item.is_good]
    bad = [one for one in judged if not one.item.is_good]
    low, high = evaluation.good_scores, evaluation.bad_scores
    latencies = [one.latency_ms for one in judged]
    kinds = sorted({one.item.label for one in bad})
    return {
        "image_auroc": auroc(low, high),
        "pixel_auroc": meter.pixel_auroc(),
        "aupro": meter.aupro(),
        "overkill": _share(good, {"NG"}),
        "escape": _share(bad, {"OK"}),
        "review": _share(judged, {"REVIEW"}),
        "latency_ms_p50": float(np.percentile(latencies, 50)),
        "latency_ms_p95": float(np.percentile(latencies, 95)),
        "images": len(judged),
        "images_good": len(good),
        "images_bad": len(bad),
        "masks": sum(one.item.mask is not None for one in bad),
        "defect_regions": meter.regions,
        "image_auroc_interval": auroc_interval(low, high, seed=seed),
        "overkill_interval": _interval(good, {"NG"}),
        "escape_interval": _interval(bad, {"OK"}),
        "good_not_ok": _share(good, {"REVIEW", "NG"}),
        "kinds": {kind: _kind([one for one in bad if one.item.label == kind], low) for kind in kinds},
        "data_fingerprint": evaluation.data.fingerprint,
        "left_out": len(evaluation.data.left_out),
    }


def _kind(judged: list[Judged], good: list[float]) -> dict[str, Any]:
    return {
        "images": len(judged),
        "image_auroc": auroc(good, [one.score for one in judged]),
        "escape": _share(judged, {"OK"}),
        "review": _share(judged, {"REVIEW"}),
    }


def _share(judged: list[Judged], verdicts: set[str]) -> float | None:
    return sum(one.verdict in verdicts for one in judged) / len(judged) if judged else None


def _interval(judged: list[Judged], verdicts: set[str]) -> tuple[float, float] | None:
    """Clopper-Pearson interval at 95 % of a share of verdicts."""
    return clopper_pearson(sum(one.verdict in verdicts for one in judged), len(judged)) if judged else None


def evaluate_package(
    package_path: Path | str,
    data_root: Path | str,
    threads: int | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The metrics of a package on a data folder, as `haechi inspection evaluate --json` writes them.

    Raises:
        BadInput: the folder has no known layout or nothing to judge.
        PackageRefused: the package fails a check.
    """
    return evaluate_files(package_path, data_root, threads, seed=seed, progress=progress)[1].metrics


def evaluate_files(
    package_path: Path | str,
    data_root: Path | str,
    threads: int | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Inspector, Evaluation]:
    """Like `evaluate_package`, with the inspector and every picture's score, as a report needs them."""
    from shared.runtime import load
    from solutions.inspection.pipeline import Inspector

    data = scan(Path(data_root), need_good=0)
    items_to_judge(data)  # complain before the model is loaded
    model = load(Path(package_path), threads=threads)
    inspector = Inspector(model)
    evaluation = evaluate(inspector, data, seed=seed, progress=progress)
    evaluation.metrics |= about_package(model, Path(package_path))
    return inspector, evaluation


def about_package(model: Model, path: Path) -> dict[str, Any]:
    """Size, model, thresholds and the way the package was run."""
    manifest = model.manifest
    return {
        "package_bytes": package_bytes(path),
        "model": str(manifest.lineage.settings.get("model") or manifest.name),
        "package": manifest.name,
        "version": manifest.version,
        "thresholds": {name: threshold.value for name, threshold in manifest.thresholds.items()},
        "provider": model.provider,
        "threads": model.threads,
    }


def package_bytes(path: Path) -> int:
    """Bytes on disk of a package, folder or zip."""
    files: Iterable[Path] = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
