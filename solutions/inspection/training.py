"""Photographs of good parts become a model: `task: anomaly` of the training engine, found by its entry point.

The features of every good picture, and of copies with painted defects, are computed once. On them
`shared.training.anomaly_choice` compares the models by cross-validation and fits the chosen one on all good parts. What
is left is inspection's own: two thresholds from scores of parts that the model had not seen, the graph from the uint8
picture to score, heat map and mask, and a report. `shared.training.packaging` writes the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_tools.dataset import NEEDED_GOOD, DatasetReport, Item, scan
from data_tools.defects import PAINTERS, defect_on
from shared.errors import BadInput, HaechiError
from shared.images import Rgb, read_image
from shared.manifest import Manifest, TensorSpec, Threshold
from shared.progress import counted, stage
from shared.runtime import default_threads
from shared.training import anomaly_choice, backbones
from shared.training.anomaly import Features
from shared.training.anomaly_choice import Examples, Recipe
from shared.training.config import TrainConfig, parse
from shared.training.export import Session, export, relative_difference
from shared.training.heatmaps import Front, InspectionNet, scores_of, smoothed
from shared.training.task import Exported, OwnLoop
from solutions.inspection.config import MODELS, Data, Model
from solutions.inspection.pipeline import TASK
from solutions.inspection.thresholds import TableRow, choose_thresholds, threshold_table
from solutions.inspection.training_report import assets_of, strangers

_PAINTED = 480
"""Pictures with painted defects, in all."""
_LARGE, _SMALL = 320, 256
_BATCH = 8
_PARITY = 1e-4
_PIXEL_SHARE = 0.8
"""The pixel threshold lies this far on the way from good parts' usual map to the threshold of review."""


@dataclass(frozen=True)
class Learned:
    """What a training found out, beyond the package, for the command line and the report."""

    candidates: list[dict[str, Any]]
    """A row for each model that was tried; `chosen` marks the one that is packaged."""
    good_scores: list[float]
    """Of the chosen model on `data.train_good`, each by a model that had not seen the part."""
    bad_scores: list[float]
    """Of `data.bad`, where those may be looked at."""
    table: list[TableRow]
    """What to expect over thresholds."""
    notes: list[str]
    """About the data as a whole, and good parts unlike the others."""
    net: InspectionNet
    """The model on the training side, of which the package holds the export."""


class Anomaly(OwnLoop):
    """`task: anomaly`."""

    metric = "synthetic_auroc"

    def __init__(self, config: TrainConfig, *, data: DatasetReport | None = None, threads: int | None = None) -> None:
        """As in `OwnLoop`.

        Args:
            data: what `scan` found at `data.path`, where the caller has looked already.
            threads: None: those of the settings, else one for each core this process may use.
        """
        self.config = config
        self.model = parse(Model, config.model, "model")
        path = parse(Data, config.data, "data").path
        _refuse_what_means_nothing(config)
        self.threads = threads or default_threads()
        loaded = backbones.load(self.model.backbone)
        self.backbone, self.licences = loaded.module, [loaded.licence]
        self.data = _look_around(path) if data is None else data
        # Who has looked already has been told.
        self._left_out = _left_out(self.data) if data is None else []
        self.data_fingerprint = self.data.fingerprint
        if (good := len(self.data.train_good)) < NEEDED_GOOD:
            raise BadInput(f"{path} has {good} usable pictures of good parts; at least {NEEDED_GOOD} are needed.")
        self.learned: Learned | None = None

    def train(self, folder: Path, *, resume: bool) -> tuple[Exported, dict[str, float]]:  # noqa: ARG002
        """A minute or two, so `resume` begins anew and nothing is kept in `folder`. Sets `learned`.

        Raises:
            HaechiError: the export differs from the model.
        """
        torch.set_num_threads(self.threads)
        cv2.setNumThreads(1)
        good = self.data.train_good
        size = self.model.image_size or choose_size(good)
        recipe = Recipe(self.config.seed, self.model.bank_bytes)
        front = Front(self.backbone, size).eval()
        examples, samples = _look(front, good, self.config.seed, self.threads)
        names: list[str] = list(MODELS) if self.model.kind == "auto" else [self.model.kind]
        judged = anomaly_choice.cross_validate(examples, names, recipe)
        rows = anomaly_choice.estimates(judged, names)
        chosen = anomaly_choice.choose(rows)
        fitted, good_maps = anomaly_choice.fit_on_all(chosen, examples, judged, recipe)
        net = InspectionNet(front, fitted).eval()
        onnx_model, session = _export(net, samples, self.threads)
        parity = _check_parity(net, session, good)
        scores = scores_of(good_maps).tolist()
        bad_scores = _scores(session, self.data.bad) if self.data.layout == "good_bad" else []
        thresholds = choose_thresholds(
            scores, bad_scores or None, max_overkill=self.model.max_overkill, max_escape=self.model.max_escape
        )
        thresholds["pixel"] = _pixel_threshold(good_maps, thresholds["review"].value)
        table = threshold_table(scores, bad_scores or None, thresholds=thresholds)
        notes = [*self.data.warnings, *strangers(good, scores)]
        self.learned = Learned(rows, scores, bad_scores, table, notes, net)
        exported = self._exported(onnx_model, samples, parity, chosen, size, thresholds)
        exported.notes = [str(thresholds["review"].details["promise"]), *notes, *self._left_out]
        exported.report = lambda manifest: self._report(manifest, session)
        return exported, {self.metric: next(row["estimate"] for row in rows if row["chosen"])}

    def _exported(
        self,
        model: bytes,
        samples: NDArray[np.uint8],
        parity: float,
        kind: str,
        size: int,
        thresholds: dict[str, Threshold],
    ) -> Exported:
        chosen = self.model.model_copy(update={"kind": kind, "image_size": size})
        pixel_threshold = np.array([thresholds["pixel"].value], dtype=np.float32)
        return Exported(
            model=model,
            inputs=[
                TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3]),
                TensorSpec(name="pixel_threshold", datatype="FP32", shape=[1]),
            ],
            outputs=[
                TensorSpec(name="score", datatype="FP32", shape=[-1]),
                TensorSpec(name="heatmap", datatype="FP32", shape=[-1, size, size]),
                TensorSpec(name="mask", datatype="UINT8", shape=[-1, size, size]),
            ],
            golden_inputs={"image": samples, "pixel_threshold": pixel_threshold},
            parity=parity,
            task=TASK,
            evaluator="inspection",
            labels=["OK", "REVIEW", "NG"],
            preprocessing={"colour": "RGB", "values": "0 to 255", "image_size": size, "resize": "inside the graph"},
            description=f"{kind} on {chosen.backbone}, learned from {len(self.data.train_good)} good parts",
            thresholds=thresholds,
            settings=chosen.settings(self.config.seed),
        )

    def _report(self, manifest: Manifest, session: Session) -> dict[str, bytes]:
        assert self.learned is not None
        found = self.learned

        def run(image: Rgb, pixel_threshold: float) -> dict[str, NDArray[Any]]:
            return _run(session, image, pixel_threshold)

        return assets_of(manifest, self.data, found.candidates, found.good_scores, found.bad_scores, run)


def _refuse_what_means_nothing(config: TrainConfig) -> None:
    """Nobody shall believe that a setting did what it cannot do, least of all a search: what is written counts, be it
    the default."""
    teaching = config.distill.compare or config.distill.model_fields_set - {"compare"}  # which a search switches off
    for name, given in (("augment", config.augment), ("fit", config.fit.model_fields_set), ("distill", teaching)):
        if given:
            raise BadInput(f"{name} means nothing to task {config.task}, which has no epochs; remove that section.")


def _look_around(path: Path) -> DatasetReport:
    with counted("looking at pictures") as tick:
        return scan(path, progress=tick)


def _left_out(data: DatasetReport) -> list[str]:
    if not data.left_out:
        return []
    many = "1 file was" if len(data.left_out) == 1 else f"{len(data.left_out)} files were"
    return [f"{many} left out; `haechi data validate {data.root}` says why."]


def choose_size(items: list[Item]) -> int:
    """320 where the pictures are larger than that, else 256: enlarging shows nothing new and costs time."""
    sides = [math.sqrt(item.size[0] * item.size[1]) for item in items]
    return _LARGE if float(np.median(sides)) >= _LARGE else _SMALL


# -- features ----------------------------------------------------------------------------------------------------


def _look(front: Front, items: list[Item], seed: int, threads: int) -> tuple[Examples, NDArray[np.uint8]]:
    """Read every good picture once; keep its features and those of copies with painted defects. With them one good and
    one painted picture, [2, S, S, 3]."""
    size = front.size
    extract = _extractor(front, threads)
    # In parts: a list of all pictures at full size would not fit where there are thousands.
    good: list[list[NDArray[Any]]] = []
    painted: list[list[NDArray[Any]]] = []
    masks: list[NDArray[np.bool_]] = []
    source: list[int] = []
    kinds: list[int] = []
    waiting: list[Rgb] = []
    samples: list[Rgb] = []
    copies = _copies(len(items))
    names = list(PAINTERS)
    with stage("Looking at the good parts", total=len(items)) as bar:
        for index, item in enumerate(items):
            image = read_image(item.path)
            good.append(extract(image[None]))
            small: Rgb = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
            rng = np.random.default_rng([seed, index])
            for _ in range(copies[index]):
                kind = int(rng.integers(len(names)))
                picture, mask, _ = defect_on(small, rng, names[kind], float(rng.uniform(0.6, 2.0)))
                waiting.append(picture)
                masks.append(mask)
                source.append(index)
                kinds.append(kind)
                if len(samples) < 1:
                    samples += [small, picture]
            while len(waiting) >= _BATCH or (waiting and index == len(items) - 1):
                painted.append(extract(np.stack(waiting[:_BATCH])))
                del waiting[:_BATCH]
            bar.advance()
    examples = Examples(
        good=_joined(good),
        painted=_joined(painted),
        masks=torch.from_numpy(np.stack(masks)),
        source=torch.tensor(source),
        kind=torch.tensor(kinds),
    )
    return examples, np.stack(samples)


def _copies(count: int) -> list[int]:
    """How many painted copies each of `count` pictures gets, `_PAINTED` in all and at most 12 each."""
    most = min(_PAINTED, 12 * count)
    return [(index + 1) * most // count - index * most // count for index in range(count)]


def _joined(parts: list[list[NDArray[Any]]]) -> Features:
    return [torch.from_numpy(np.concatenate([part[level] for part in parts])) for level in range(3)]


def _extractor(front: Front, threads: int) -> Callable[[NDArray[np.uint8]], list[NDArray[Any]]]:
    """Pictures uint8 [N, H, W, 3] → features, float16. ONNX Runtime does on a processor in 8 ms what takes torch 20."""
    example = torch.zeros(2, front.size, front.size + 8, 3, dtype=torch.uint8)
    levels = ["fine", "middle", "coarse"]
    model = export(front, {"image": example}, levels, {"image": {0: "n", 1: "height", 2: "width"}})
    session = Session(model, threads)

    def extract(images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        found = session.run({"image": images})
        return [found[level].astype(np.float16) for level in levels]

    return extract


# -- export and thresholds -----------------------------------------------------------------------------------------


def _export(net: InspectionNet, samples: NDArray[np.uint8], threads: int) -> tuple[bytes, Session]:
    # Not square, so that the exporter cannot take one size for the other.
    example = torch.from_numpy(np.ascontiguousarray(samples[:, :, 8:]))
    with stage("Writing the graph"):
        model = export(
            net,
            {"image": example, "pixel_threshold": torch.zeros(1)},
            ["score", "heatmap", "mask"],
            {"image": {0: "n", 1: "height", 2: "width"}},
        )
        return model, Session(model, threads)


def _run(session: Session, image: Rgb, pixel_threshold: float = 0.0) -> dict[str, NDArray[Any]]:
    return session.run({"image": image[None], "pixel_threshold": np.array([pixel_threshold], dtype=np.float32)})


def _scores(session: Session, items: list[Item]) -> list[float]:
    return [float(_run(session, read_image(item.path))["score"][0]) for item in items]


def _check_parity(net: InspectionNet, session: Session, items: list[Item]) -> float:
    """The largest relative difference of the score between the model and its export, on some real pictures."""
    worst = 0.0
    for item in items[:: max(1, len(items) // 8)][:8]:
        image = read_image(item.path)
        with torch.inference_mode():
            score = net(torch.from_numpy(image[None]), torch.zeros(1))[0].numpy()
        worst = max(worst, relative_difference(score, _run(session, image)["score"]))
    if worst > _PARITY:
        raise HaechiError(
            f"the exported model's scores differ by {worst:.1e} from the trained one's; please report it."
        )
    return worst


def _pixel_threshold(good_maps: Tensor, review: float) -> Threshold:
    typical = float(smoothed(good_maps).median())
    return Threshold(
        value=typical + _PIXEL_SHARE * (review - typical),
        method="between the usual map of good parts and the threshold of review",
        details={"typical": typical, "share": _PIXEL_SHARE},
    )
