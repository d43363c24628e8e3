"""What is put between Ultralytics and a run of ours. This file imports nothing of Ultralytics:
`shared.training.tasks.yolo` mixes its classes into those of Ultralytics.

Ultralytics' loop, losses, augmentations and validators are used as they are. Ours are

- reading: pictures come through `shared.images`, labels from `shared.labelled_boxes`, so nothing is scanned, cached as
  a pickle or written beside the user's data;
- order and randomness: functions of (seed, epoch, picture), so that a run can be resumed exactly;
- checkpoints: `shared.training.checkpoint`, safetensors and JSON, with the weights in full precision. Ultralytics' own
  `.pt` files, which are pickles, are neither written nor read;
- progress and figures; none of its callbacks run, so nothing is sent anywhere.
"""

from __future__ import annotations

import copy
import functools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from shared.detections import letterbox
from shared.errors import HaechiError
from shared.images import read_image
from shared.labelled_boxes import Labelled
from shared.progress import Stage
from shared.training import checkpoint
from shared.training.checkpoint import State, Tensors
from shared.training.config import Fit
from shared.training.tracking import Tracker

METRICS = {
    "metrics/mAP50(B)": "map50",
    "metrics/mAP50-95(B)": "map50_95",
    "metrics/mAP50(M)": "mask_map50",
    "metrics/mAP50-95(M)": "mask_map50_95",
    "metrics/mAP50(P)": "pose_map50",
    "metrics/mAP50-95(P)": "pose_map50_95",
    "metrics/accuracy_top1": "accuracy",
    "metrics/accuracy_top5": "accuracy_top5",
}
"""Ultralytics' names of what it measures on the validation split, and ours."""
_KEPT_BYTES = 1 << 30
"""Of decoded pictures, so that small data sets are decoded once."""
_EMA_RAMP = 2000


@dataclass
class Course:
    """What the trainer of one run is told."""

    fit: Fit
    seed: int
    folder: Path
    data: dict[str, Any]
    """As Ultralytics wants it: names, nc, channels, and for poses kpt_shape and flip_idx."""
    dataset: Callable[[str], Any]
    """`train` or `val` → the data set."""
    network: dict[str, Any]
    """The architecture."""
    weights: nn.Module | None
    state: State
    tensors: Tensors | None
    """To go on from; None: from the beginning."""
    tracker: Tracker
    bar: Stage
    began: float
    """time.monotonic() less what the run had taken before."""

    @functools.cached_property
    def steps(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.dataset("train")) / self.fit.batch_size)

    @property
    def updates(self) -> int:
        """Steps of the optimiser in an epoch."""
        return math.ceil(self.steps / self.fit.accumulate)


class TrainerHooks:
    """Goes before one of Ultralytics' trainers in the bases of a class, and takes the place of what is named above."""

    course: Course

    def __getattr__(self, name: str) -> Any:
        """For type checkers: the rest is the trainer's."""
        raise AttributeError(name)

    # -- what is trained, and on what -------------------------------------------------------------------------------

    def get_dataset(self) -> dict[str, Any]:
        return dict(self.course.data)

    def setup_model(self) -> None:
        self.model = self.get_model(cfg=copy.deepcopy(self.course.network), weights=self.course.weights, verbose=False)

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:  # noqa: ARG002
        return EpochLoader(
            self.course.dataset(mode), batch_size, self.course.seed, self.args.workers, shuffle=mode == "train"
        )

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run_callbacks(self, event: str) -> None:
        """In place of all callbacks, Ultralytics' own among them."""
        if event == "on_train_epoch_start":
            self.train_loader.sampler.epoch = self.epoch
            torch.manual_seed(_seeds(self.course.seed, self.epoch)[0])
            self._waiting = 0
            self._epoch_began = time.monotonic()
        elif event == "on_train_batch_end":
            self.course.bar.advance()
        elif event == "on_train_epoch_end" and self._waiting:
            self._step()  # an epoch ends with a whole step, so that a checkpoint need not hold gradients

    def optimizer_step(self) -> None:
        self._waiting += 1
        if self._waiting >= self.course.fit.accumulate:
            self._step()

    def _step(self) -> None:
        self._waiting = 0
        self.scaler.unscale_(self.optimizer)
        if self.course.fit.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=self.course.fit.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.model)

    def _handle_nan_recovery(self, epoch: int) -> bool:
        if self.loss is not None and not torch.isfinite(self.loss).all():
            raise HaechiError(f"the loss is no longer a number in epoch {epoch + 1}; set fit.lr lower.")
        return False

    # -- what is kept -----------------------------------------------------------------------------------------------

    def resume_training(self, ckpt: Any) -> None:  # noqa: ARG002
        """Called when all is set up and nothing is trained yet."""
        course, state = self.course, self.course.state
        self.ema.decay = lambda updates: course.fit.ema * (1 - math.exp(-updates / _EMA_RAMP))
        if course.tensors is None:
            return
        self.model.load_state_dict(course.tensors.weights)
        self.ema.ema.load_state_dict(course.tensors.average)
        self.ema.updates = state.epoch * course.updates
        checkpoint.restore_optimizer(self.optimizer, course.tensors.optimizer)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.best_fitness = state.best
        self.stopper.best_fitness = state.best or 0.0
        self.stopper.best_epoch = state.epoch - state.since_best
        self.stopper.possible_stop = state.since_best >= self.stopper.patience - 1
        self.start_epoch = state.epoch
        if getattr(self.model.model[-1], "one2one_cv2", None) is not None:  # its two losses change weight by epoch
            self.model.criterion = self.model.init_criterion()
            self.model.criterion.updates = state.epoch - 1
            self.model.criterion.update()
        course.bar.advance(state.epoch * course.steps)

    def save_metrics(self, metrics: Mapping[str, Any]) -> None:  # noqa: ARG002
        state, epoch = self.course.state, self.epoch + 1
        measured = {ours: float(self.metrics[theirs]) for theirs, ours in METRICS.items() if theirs in self.metrics}
        record = {
            "epoch": epoch,
            "loss": float(sum(float(value.sum()) for value in self.tloss.values())),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": time.monotonic() - self._epoch_began,
            "metrics": measured,
        }
        state.history.append(record)
        state.metrics_bytes = self.course.tracker.epoch(record)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in list(measured.items())[-1:])
        self.course.bar.describe(f"epoch {epoch}/{self.epochs}, {shown}")

    def save_model(self) -> bool:
        """Called after an epoch is validated and it is known whether it was the last."""
        course, state, epoch = self.course, self.course.state, self.epoch + 1
        if not state.best_file or self.fitness == self.best_fitness:
            state.best_file = checkpoint.save_best(course.folder, epoch, self.ema.ema.state_dict())
            state.best_metrics = dict(state.history[-1]["metrics"])
        state.epoch, state.best = epoch, float(self.best_fitness or 0.0)
        state.since_best = epoch - self.stopper.best_epoch
        state.scaler = dict(self.scaler.state_dict())
        state.seconds = time.monotonic() - course.began
        if self.stop:
            state.stopped = "all epochs" if epoch >= self.epochs else f"no better for {self.stopper.patience} epochs"
        tensors = Tensors(
            self.model.state_dict(), self.ema.ema.state_dict(), checkpoint.optimizer_tensors(self.optimizer)
        )
        checkpoint.save(course.folder, state, tensors)
        return True

    def final_eval(self) -> None:
        """The best weights are measured as a package; see `shared.training.tasks.yolo`."""

    def progress_string(self) -> str:
        return ""


class EpochOrder(Sampler[tuple[int, int]]):
    """(epoch, index) of each picture, shuffled by (seed, epoch) or in order."""

    def __init__(self, count: int, seed: int, *, shuffle: bool) -> None:
        self.epoch = 0
        self._count, self._seed, self._shuffle = count, seed, shuffle

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self._count)
        if self._shuffle:
            order = np.random.default_rng([self._seed, self.epoch]).permutation(self._count)
        return iter([(self.epoch, int(index)) for index in order])


class EpochLoader(DataLoader[Any]):
    """Batches of a data set that is asked for (epoch, index)."""

    def __init__(self, dataset: Any, batch: int, seed: int, workers: int, *, shuffle: bool) -> None:
        super().__init__(
            dataset,
            batch,
            sampler=EpochOrder(len(dataset), seed, shuffle=shuffle),
            num_workers=workers,
            collate_fn=dataset.collate_fn,
        )

    def __iter__(self) -> Iterator[Any]:
        # A generator: Ultralytics asks for an iterator that it then throws away, and this one starts no workers.
        yield from super().__iter__()

    def reset(self) -> None:
        """Called when mosaics end; a new iterator is made for each epoch anyway."""

    def close(self) -> None:
        """The workers end with each epoch."""


class BoxPictures:
    """Goes before Ultralytics' YOLODataset in the bases of a class."""

    def __init__(self, pictures: Sequence[Labelled], seed: int, **options: Any) -> None:
        self.pictures = pictures
        self._seed = seed
        self._kept: dict[int, tuple[NDArray[np.uint8], tuple[int, int]]] = {}
        self._bytes = 0
        super().__init__(img_path="", cache=None, rect=False, **options)  # type: ignore[call-arg]

    def __getattr__(self, name: str) -> Any:
        """For type checkers: the rest is the data set's."""
        raise AttributeError(name)

    def get_img_files(self, img_path: Any) -> list[str]:  # noqa: ARG002
        return [str(each.path) for each in self.pictures]

    def get_labels(self) -> list[dict[str, Any]]:
        return [_label(each) for each in self.pictures]

    def build_transforms(self, hyp: Any) -> Any:
        self.cache = "ram"  # mosaics then take any picture, and not those that happen to have been read lately
        return super().build_transforms(hyp)  # type: ignore[misc]

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        python, legacy, _ = _seeds(self._seed, epoch, index)
        random.seed(python)
        np.random.seed(legacy)
        return super().__getitem__(index)  # type: ignore[misc]

    def load_image(self, i: int, *_more: Any, **_named: Any) -> tuple[NDArray[np.uint8], tuple[int, int], Any]:
        """BGR, its longer side as long as the network's, resized as the package will."""
        if i in self._kept:
            resized, size = self._kept[i]
            return resized.copy(), size, (resized.shape[0], resized.shape[1])
        image = read_image(self.pictures[i].path)
        size = image.shape[0], image.shape[1]
        _, height, width, _, _ = letterbox(*size, self.imgsz)
        picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        resized = np.ascontiguousarray(np.asarray(picture)[..., ::-1])
        if self._bytes + resized.nbytes <= _KEPT_BYTES:
            self._bytes += resized.nbytes
            self._kept[i] = resized.copy(), size
        return resized, size, (height, width)


def _label(each: Labelled) -> dict[str, Any]:
    """As Ultralytics keeps it: middle and size of boxes, as shares."""
    taken = np.flatnonzero(each.single)
    boxes = each.boxes[taken]
    middle = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    return {
        "im_file": str(each.path),
        "cls": each.classes[taken, None].astype(np.float32),
        "bboxes": middle.astype(np.float32),
        "segments": [each.polygons[index] for index in taken] if each.polygons else [],
        "keypoints": None if each.keypoints is None else each.keypoints[taken],
        "normalized": True,
        "bbox_format": "xywh",
    }


class LabelledPictures:
    """A data set of whole pictures with one label each, for classification.

    Args:
        pictures: path and class of each.
        transforms: of a training picture (PIL) to a tensor [3, S, S] from 0 to 1; None: as the package will see it.
    """

    def __init__(
        self, pictures: Sequence[tuple[Path, int]], seed: int, side: int, transforms: Callable[[Any], Tensor] | None
    ) -> None:
        self.pictures, self._seed, self._side, self._transforms = pictures, seed, side, transforms
        self.torch_transforms = transforms

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        epoch, index = place
        path, label = self.pictures[index]
        picture = Image.fromarray(read_image(path))
        if self._transforms is None:
            resized = np.asarray(picture.resize((self._side, self._side), Image.Resampling.BILINEAR))
            return {"img": torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255, "cls": label}
        python, legacy, torchs = _seeds(self._seed, epoch, index)
        random.seed(python)
        np.random.seed(legacy)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torchs)
            return {"img": self._transforms(picture), "cls": label}

    @staticmethod
    def collate_fn(samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return {
            "img": torch.stack([each["img"] for each in samples]),
            "cls": torch.tensor([each["cls"] for each in samples]),
        }


def _seeds(*key: int) -> list[int]:
    """Three seeds of 32 bits from whole numbers."""
    return [int(word) for word in np.random.SeedSequence(key).generate_state(3)]
