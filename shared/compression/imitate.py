"""Learning to answer as another model does: distillation without labels.

The student is a changed core (pruned, narrower, quantised), the teacher is the core that the model had. Both are shown
the same pictures of the training split, cropped, flipped and mixed, and the student learns the teacher's answers: a
good teacher is patient and consistent (Beyer et al. 2022), so every augmented picture is answered anew instead of being
given the answer of the picture it came from. What an answer is decides how far off another one is:

    logits      behind which there is a softmax: Kullback-Leibler divergence at a temperature (Hinton et al. 2015)
    everything else (features, maps, boxes): squared error in units of the teacher's own variance

A model is not the best teacher of its own labels: where packages that know them better are named (`Tutors`), logits are
learned from those, and the student may come to surpass the model it was made from.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from shared.compression.core import Core, normalise
from shared.compression.revive import Revived
from shared.errors import BadInput
from shared.evaluation import EvaluationData
from shared.machine import cpu_flags
from shared.progress import track
from shared.training.config import Distill, Fit, Track, TrainConfig
from shared.training.engine import fit_network
from shared.training.pictures import Augment, augmented, mix
from shared.training.task import Batch, Group, Objective
from shared.training.teachers import Teachers

Inputs = Iterable[Mapping[str, np.ndarray]] | EvaluationData
"""Inputs of a model, one sample each, or the data set that gives them."""

MOST = 4096
"""Samples taken from a data set, at most."""
_BYTES = 800_000_000
"""Of samples in memory, at most; larger pictures are shrunk as far as the network will shrink them anyway."""
_SPARE = 1.5
"""Pictures are kept this much larger than the network wants them, so that a crop still fills it."""
_HELD = 0.1
"""Share of the samples that is held out to choose the best epoch."""
_MOST_HELD = 128
_TEMPERATURE = 4.0
_TUTORS_TEMPERATURE = 2.0
"""Of the answers of other packages, which need not be as sure of themselves as the model is."""
_AUGMENT = Augment(crop=0.35, rotate=15, colour=0.3, mixup=1.0, cutmix=1.0, mix_probability=0.6)
_GROWING = (0.5, 0.5, 0.75, 0.875)
"""Sides of the pictures over a long course, as shares of what the network is made for. At half the side a step costs a
quarter; and what was cropped is shown larger than it will be, so the whole side is too large to learn at (Touvron et
al. 2019)."""
_BF16 = {"avx512_bf16", "amx_bf16"}
"""Flags of processors that multiply bfloat16."""
_LEAST_SIDE = 64
"""Pixels below which pictures are not made smaller."""


@dataclass(frozen=True)
class Tutors:
    """Packages that teach the classes of a model in its place; their answers are averaged."""

    packages: tuple[Path, ...] = ()
    """None: the model itself teaches."""
    labels: tuple[str, ...] = ()
    """Of the model, in the order of its logits."""


# -- samples ------------------------------------------------------------------------------------------------------


class Material:
    """What there is to learn from: samples as the model takes them, split into those to train on and those held out.

    Raises:
        BadInput: fewer than eight samples.
    """

    def __init__(self, revived: Revived, data: Inputs, seed: int) -> None:
        self.revived = revived
        self.picture = _picture_name(revived)
        """Name of the input that is a picture and may be augmented; empty: there is none."""
        samples: list[Any] = []
        size = 0
        source = data.calibration(MOST, seed) if isinstance(data, EvaluationData) else itertools.islice(data, MOST)
        for inputs in track(source, "Reading samples"):
            for each in self._taken(inputs):
                samples.append(each)
                size += each.nbytes
            if size > _BYTES:
                break
        if len(samples) < 8:
            raise BadInput(f"there are {len(samples)} samples to learn from; give a data set with at least 8.")
        order = np.random.default_rng(seed).permutation(len(samples))
        held = max(2, min(_MOST_HELD, round(_HELD * len(samples))))
        self.held = [samples[index] for index in order[:held]]
        self.samples = [samples[index] for index in order[held:]]

    def _taken(self, inputs: Mapping[str, np.ndarray]) -> list[NDArray[Any]]:
        """Pictures [H, W, 3], or what the core gets [...], one for each sample of the batch."""
        if not self.picture:
            return list(self.revived.front(inputs))
        self._others = {name: value for name, value in inputs.items() if name != self.picture}
        return [_shrunk(picture, self.revived.shape[2:]) for picture in inputs[self.picture]]

    def core_input(self, sample: NDArray[Any]) -> NDArray[np.float32]:
        """What the core gets for a sample [...]."""
        if not self.picture:
            return sample
        return self.revived.front({**self._others, self.picture: sample[None]})[0]

    def augmented(self, sample: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """A random variant of a picture, uint8 [S, S, 3] with S the core's longer side; anything else as it is."""
        if not self.picture:
            return sample
        side = max(self.revived.shape[2:])
        return augmented(sample, _AUGMENT, side, side, generator)

    def mixed(self, batch: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """Samples of a batch [N, ...] mixed with one another: pictures by mixup or CutMix, core inputs by mixup."""
        if len(batch) < 2:
            return batch
        if self.picture:
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).float()
            images, _ = mix(images, torch.zeros(len(batch), 1), _AUGMENT, generator)
            return np.ascontiguousarray(images.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
        share = generator.uniform(0.0, 0.5, (len(batch), *([1] * (batch.ndim - 1)))).astype(np.float32)
        return np.asarray(batch * (1 - share) + batch[generator.permutation(len(batch))] * share)

    def core_inputs(self, samples: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        """[N, ...] what the core gets for samples [...]."""
        return np.stack([self.core_input(each) for each in samples]).astype(np.float32)

    def batches(self, size: int, most: int) -> Iterable[Tensor]:
        """Core inputs [N, ...] of up to `most` samples to train on, as they are."""
        for start in range(0, min(most, len(self.samples)), size):
            yield torch.from_numpy(self.core_inputs(self.samples[start : start + size]))


def _picture_name(revived: Revived) -> str:
    """The input that holds a picture: uint8 [N, H, W, 3] of any size."""
    for name, shape in revived.pictures().items():
        if len(revived.shape) == 4 and len(shape) == 4 and shape[1] is None and shape[2] is None:
            return name
    return ""


def _shrunk(picture: NDArray[Any], wanted: Sequence[int]) -> NDArray[Any]:
    height, width = picture.shape[:2]
    factor = _SPARE * max(wanted[0] / height, wanted[1] / width)
    if factor >= 1.0:
        return np.array(picture)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


# -- answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One exit of the core and how answers there are compared."""

    name: str
    shape: tuple[int, ...]
    """Without the batch."""
    logits: bool
    spread: Tensor
    """Variance [C] of the teacher's answer, over samples and places."""
    temperature: float = _TEMPERATURE
    """At which logits are compared."""
    tutored: bool = False
    """Learned from other packages than the model itself."""

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over the batch of how far apart two answers [N, ...] are."""
        if self.logits:
            t = self.temperature
            target = F.log_softmax(teacher / t, 1)
            return F.kl_div(F.log_softmax(student / t, 1), target, log_target=True, reduction="batchmean") * t * t
        spread = self.spread.to(student.device).view(1, -1, *([1] * (student.dim() - 2)))
        return ((student - teacher).square() / spread).mean()


def answers_of(revived: Revived, teacher: Mapping[str, NDArray[Any]]) -> list[Answer]:
    """The exits, judged by what the teacher says to some samples and by what follows them in the graph."""
    found = []
    for name in revived.core.exits:
        value = torch.from_numpy(teacher[name])
        followed = revived.follows(name)
        logits = value.dim() == 2 and ("Softmax" in followed or "logits" in name.lower())
        axes = [axis for axis in range(value.dim()) if axis != 1]
        spread = value.var(dim=axes, unbiased=False) if value.dim() > 1 else value.var(unbiased=False)[None]
        # A channel that hardly moves is not worth more than the others together.
        found.append(
            Answer(name, tuple(value.shape[1:]), logits, spread.clamp(min=0.01 * float(spread.mean()) + 1e-12))
        )
    return found


class _Samples:
    """Augmented samples, before the core's pre-processing."""

    def __init__(self, material: Material) -> None:
        self._material = material

    def __len__(self) -> int:
        return len(self._material.samples)

    def sample(self, index: int, generator: np.random.Generator) -> Mapping[str, Any]:
        return {"sample": self._material.augmented(self._material.samples[index], generator)}


class Imitation(Objective):
    """To answer as the teacher does. `x` [N, ...] goes in; `target` [N, K] holds all exits, flat.

    Raises:
        BadInput: `tutors` know other labels, or the model gives nothing that they could teach.
    """

    metric = "fidelity"

    def __init__(self, material: Material, threads: int, tutors: Tutors | None = None) -> None:
        tutors = tutors or Tutors()
        self.samples = _Samples(material)
        self.labels = tutors.labels
        self.sides: list[tuple[int, int]] = []
        """Height and width of the core's input in each epoch; empty: as it is."""
        self._side: tuple[int, int] | None = None
        self._material, self._revived = material, material.revived
        self._parent = material.revived.parent(threads)
        distill = Distill(teachers=list(tutors.packages), logits=1.0, temperature=_TUTORS_TEMPERATURE)
        self._tutors = Teachers.open(distill, self) if tutors.packages else None
        self._held = material.core_inputs(material.held)
        said = [self._ask(x) for x in _chunks(self._held)]
        joined = {name: np.concatenate([each[name] for each in said]) for name in said[0]}
        self.answers = [self._tutored(each) for each in answers_of(self._revived, joined)]
        if self._tutors is not None and not any(each.tutored for each in self.answers):
            raise BadInput("the model gives no logits of its labels for a picture; only it can teach itself.")
        self._held_target = torch.cat(
            [self._target(x[None], each[None]) for x, each in zip(self._held, material.held, strict=True)]
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the core's input, with a batch of 2."""
        return self._revived.shape

    def _tutored(self, answer: Answer) -> Answer:
        taught = self._tutors is not None and bool(self._material.picture)
        if taught and answer.logits and answer.shape == (len(self.labels),):
            return replace(answer, temperature=_TUTORS_TEMPERATURE, tutored=True)
        return answer

    def _ask(self, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return self._parent.run({self._revived.core.entry: x})

    def _target(self, x: NDArray[Any], samples: NDArray[Any]) -> Tensor:
        """What the teachers say [N, K] to core inputs, made of these samples [N, ...]."""
        said = {} if all(each.tutored for each in self.answers) else self._ask(x)
        if self._tutors is not None:
            soft = self._tutors.answer({"image": torch.from_numpy(samples)})["soft"].numpy()
            # Logits whose softmax at the temperature is the tutors' mean.
            logits = _TUTORS_TEMPERATURE * np.log(np.maximum(soft, 1e-9))
            said |= {each.name: logits for each in self.answers if each.tutored}
        parts = [said[each.name].reshape(len(x), -1) for each in self.answers]
        return torch.from_numpy(np.concatenate(parts, 1))

    def teacher_inputs(self, batch: Batch) -> dict[str, NDArray[Any]]:
        return {self._material.picture: batch["image"].numpy()}

    def begin_epoch(self, epoch: int) -> None:
        self._side = self.sides[epoch] if self.sides else None

    def collate(self, samples: Sequence[Mapping[str, Any]], generator: np.random.Generator) -> Batch:
        drawn = self._material.mixed(np.stack([each["sample"] for each in samples]), generator)
        inputs = self._material.core_inputs(drawn)
        x, target = torch.from_numpy(inputs), self._target(inputs, drawn)
        if self._side is not None and self._side != x.shape[2:]:
            # Pre-processing works on every pixel alike, so a smaller input is that of a smaller picture.
            x = F.interpolate(x, self._side, mode="bilinear", antialias=True)
        return {"x": x, "target": target}

    def groups(self, module: nn.Module) -> list[Group]:
        return [Group(list(module.parameters()), is_head=True)]

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        targets = batch["target"].split([each.size for each in self.answers], 1)
        losses = [
            each.distance(outputs[each.name].float(), target.view(-1, *each.shape))
            for each, target in zip(self.answers, targets, strict=True)
        ]
        return torch.stack(losses).mean()

    def sampled_loss(self, outputs: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """A loss whose squared gradient is, on average, the curvature of `loss` at the outputs: of answers drawn from
        what the network says (logits), or of the outputs in a random direction."""
        total = torch.zeros(())
        for each in self.answers:
            value = outputs[each.name]
            if each.logits:
                said = (value.detach() / each.temperature).softmax(1)
                drawn = torch.multinomial(said, 1, generator=generator)[:, 0]
                total = total + F.cross_entropy(value / each.temperature, drawn, reduction="sum")
            else:
                spread = each.spread.sqrt().view(1, -1, *([1] * (value.dim() - 2)))
                direction = torch.randn(value.shape, generator=generator)
                total = total + (value / spread * direction).sum() / each.size**0.5
        return total

    def validate(self, module: nn.Module, device: Any) -> dict[str, float]:
        """`fidelity`: minus the loss on held-out samples as they are; `agreement`: share of the same first class."""
        loss, same, logits = 0.0, 0, [each for each in self.answers if each.logits]
        start = 0
        for part in _chunks(self._held):
            x, target = torch.from_numpy(part).to(device), self._held_target[start : start + len(part)].to(device)
            outputs = module(x)
            loss += float(self.loss(outputs, {"target": target})) * len(part)
            for each, wanted in zip(self.answers, target.split([each.size for each in self.answers], 1), strict=True):
                if each.logits:
                    same += int((outputs[each.name].argmax(1) == wanted.argmax(1)).sum())
            start += len(part)
        metrics = {"fidelity": -loss / len(self._held)}
        return metrics | ({"agreement": same / len(logits) / len(self._held)} if logits else {})


def _chunks(x: NDArray[Any], size: int = 32) -> Iterable[NDArray[Any]]:
    for start in range(0, len(x), size):
        yield x[start : start + size]


# -- a course -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """How long and how fast a student learns."""

    epochs: int
    lr: float = 4e-3
    batch_size: int = 64
    batch_norm: str = "train"
    ema: float = 0.0
    """Decay a step of the moving average of the weights, which is then what is kept; 0: none."""
    growing: bool = False
    """Small pictures first, where the network takes them; for long courses."""
    mixed: bool = False
    """Convolve in bfloat16 where the processor has products of it: half the time, and weights stay in fp32."""


def teach(task: Imitation, student: Core, course: Course, *, folder: Path, seed: int, threads: int) -> Core:
    """Train a student and return it with its best weights, on the CPU in evaluation mode.

    Args:
        folder: takes the run while it lasts; one that is there is cleared away.
    """
    if folder.exists():
        shutil.rmtree(folder)
    torch.set_num_threads(threads)
    batch = max(4, min(course.batch_size, len(task.samples) // 4))
    config = TrainConfig.model_validate(
        {
            "task": "imitation",
            "data": {},
            "fit": Fit(
                epochs=course.epochs,
                batch_size=batch,
                lr=course.lr,
                weight_decay=0.01,
                warmup=min(1.0, 0.1 * course.epochs),
                probe=False,
                ema=course.ema,
                batch_norm="frozen" if course.batch_norm == "frozen" else "train",
                precision="bf16" if course.mixed and _BF16 & cpu_flags() else "auto",
                workers=max(1, threads),
            ),
            "track": Track(tensorboard=False),
            "seed": seed,
        }
    )
    task.sides = sides(student, course, task.shape) if course.growing else []
    student.train()
    result = fit_network(task, lambda: student, config, folder)
    shutil.rmtree(folder, ignore_errors=True)
    trained = result.module
    assert isinstance(trained, Core)
    return trained.eval()


@torch.no_grad()
def sides(student: Core, course: Course, shape: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of the input in each epoch; empty where a network must have the whole `shape` [N, C, H, W]."""
    if len(shape) != 4:
        return []
    steps = [_side(shape, share) for share in _GROWING]
    student.eval()
    whole = {name: value.shape for name, value in student(torch.zeros(2, *shape[1:])).items()}
    for side in set(steps):
        try:
            found = student(torch.zeros(2, shape[1], *side))
        except RuntimeError:  # it counts places
            return []
        if {name: value.shape for name, value in found.items()} != whole:
            return []
    return [steps[epoch * len(steps) // course.epochs] for epoch in range(course.epochs)]


def _side(shape: Sequence[int], share: float) -> tuple[int, int]:
    """A share of height and width in multiples of 16, but not too small."""
    height, width = (min(each, max(_LEAST_SIDE, 16 * round(share * each / 16))) for each in shape[2:])
    return height, width


def prepare(
    revived: Revived, data: Inputs, *, seed: int, threads: int, tutors: Tutors | None = None
) -> tuple[Material, Imitation]:
    """Read the samples, give the core its norms back, and make the task."""
    torch.set_num_threads(threads)
    material = Material(revived, data, seed)
    task = Imitation(material, threads, tutors)
    normalise(revived.core, track(material.batches(32, 256), "Measuring activations"))
    return material, task
