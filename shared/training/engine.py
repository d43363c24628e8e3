"""The one training loop: `fit` trains any `Task` as its configuration says, on one process or several, and
`fit_network` any network to any `Objective`.

    probe (optional) → frozen epochs (only the head learns) → all layers, each group at its own rate

After every epoch the validation split is asked; its metric alone chooses the weights that are kept and when to stop.
A run can be killed at any time. It goes on from its checkpoint, and on the CPU ends with the very same weights: order,
augmentation and dropout are functions of (seed, epoch, step), and what cannot be computed anew is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import HaechiError
from shared.progress import Stage, stage
from shared.training import checkpoint, distributed
from shared.training.checkpoint import State, Tensors
from shared.training.config import TrainConfig
from shared.training.loader import Loader, Plan, Ready, torch_seed
from shared.training.schedule import Average, Schedule, freeze, make_optimizer, training_mode
from shared.training.stopping import Stopped, Stopper
from shared.training.task import Batch, Group, Objective, Task
from shared.training.teachers import Lessons, Teachers
from shared.training.tracking import Tracker

Report = Callable[[int, dict[str, float]], None]
"""Called after each epoch with its number, from 1, and its validation metrics; may raise to end the run."""

ALL_EPOCHS = "all epochs"
_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Result:
    """What a run gave."""

    module: nn.Module
    """The network with its best weights (their moving average, where there is one), on the CPU in evaluation mode."""
    metrics: dict[str, float]
    """Validation metrics of those weights."""
    history: list[dict[str, Any]]
    """For each epoch: `epoch` (from 1), `loss`, `lr`, `seconds`, `metrics`."""
    probe: dict[str, float] | None
    """Validation metrics of the linear probe on frozen features, where the task has one."""
    epochs: int
    stopped: str
    """Why it ended: `all epochs`, or `no better for 5 epochs`."""
    seconds: float
    """In all, also before it was killed and resumed."""


def fit(task: Task, config: TrainConfig, folder: Path, *, resume: bool = False, report: Report | None = None) -> Result:
    """Train a task's own network; see `fit_network`."""
    return fit_network(task, task.build, config, folder, resume=resume, report=report)


def fit_network(
    objective: Objective,
    build: Callable[[], nn.Module],
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> Result:
    """Train a network.

    Args:
        build: gives the network with its first weights; called once, after torch's generator was seeded. To resume, it
            must give one of the same layers.
        folder: takes the checkpoint, metrics.jsonl and tensorboard/; see `shared.training.checkpoint`.
        resume: go on with the run that is there, from the beginning if it has no checkpoint yet. One that had ended
            gives its result again.
        report: called after each epoch, and may raise to end the run.

    Returns:
        the same on every process, but for `seconds`.

    Raises:
        BadInput: the folder holds a run and `resume` is not set, or one with other settings; the device, the batch
            size or a teacher cannot be used.
        HaechiError: the loss is no longer a number, the disk is full.
        distributed.Lost: another process of the run has ended.
        stopping.Stopped: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    team = distributed.team(distributed.choose_device(config.fit.device))
    team.lead(lambda: checkpoint.prepare(folder, config, resume=resume))
    run = _Run(objective, build, config, folder, team)
    run.restore()
    if not run.state.stopped:
        run.train(report)
    return run.result()


class _Learner(nn.Module):
    """The network with its loss as one module, so that whatever the loss uses takes part in the averaging of
    gradients. forward: batch, what the teachers say to it → mean loss."""

    def __init__(self, objective: Objective, network: nn.Module, lessons: Lessons | None) -> None:
        super().__init__()
        self.network = network
        self.lessons = lessons
        self._objective = objective

    def forward(self, batch: Batch, taught: Batch) -> Tensor:
        outputs = self.network(**{name: tensor for name, tensor in batch.items() if name != "target"})
        loss = self._objective.loss(outputs, batch)
        return loss if self.lessons is None else self.lessons(loss, outputs, taught)


class _Run:
    """A run under way: everything that `fit_network` holds."""

    def __init__(
        self,
        objective: Objective,
        build: Callable[[], nn.Module],
        config: TrainConfig,
        folder: Path,
        team: distributed.Team,
    ) -> None:
        self.objective, self.config, self.fit = objective, config, config.fit
        self.folder, self.team = folder, team
        self.device = distributed.choose_device(config.fit.device)
        self.plan = Plan(len(objective.samples), config, team.size)
        self.schedule = Schedule(config.fit, self.plan.steps)
        torch.manual_seed(config.seed)
        network = build().to(self.device)
        self.images = any(isinstance(each, nn.Conv2d) for each in network.modules())
        if self.images:  # oneDNN and cuDNN convolve fastest where the channels of a pixel lie side by side
            network = network.to(memory_format=torch.channels_last)
        teachers = Teachers.open(config.distill, objective)
        self.loader = Loader(objective, config, team, teachers.answer if teachers is not None else None)
        lessons = teachers.lessons(network, self.loader.first()).to(self.device) if teachers is not None else None
        self.learner = _Learner(objective, network, lessons)
        self.groups = objective.groups(network)
        if lessons is not None:
            self.groups.append(Group(list(lessons.parameters()), is_head=True))
        self.optimizer = make_optimizer(self.groups, config.fit)
        self.mixed = _mixed(config.fit.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.mixed is torch.float16)
        self.average: Average | None = None
        self.state = State()
        self.stop = Stopper()
        self.began = self.saved = time.monotonic()
        self.lost_seconds = 0.0

    @property
    def network(self) -> nn.Module:
        return self.learner.network

    # -- beginning and going on --------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take up the checkpoint, if there is one."""
        found = checkpoint.load(self.folder)
        if found is None:
            return
        self.state, tensors = found
        self.learner.load_state_dict(tensors.weights)
        checkpoint.restore_optimizer(self.optimizer, tensors.optimizer)
        if self.fit.ema:
            self.average = Average(self.network, self.fit.ema)
            if tensors.average:  # only the lead keeps it
                self.average.module.load_state_dict(tensors.average)
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)

    def train(self, report: Report | None) -> None:
        """From where the run is to its end."""
        tracker = Tracker(self.folder, self.config, self.state, self.plan.steps, writes=self.team.leads)
        left = (self.fit.epochs - self.state.epoch) * self.plan.steps - self.state.step
        self.began = self.saved = time.monotonic()
        self.lost_seconds = self.state.seconds
        with self.stop, stage("training", total=left) as bar:
            try:
                self._start(bar)
                while not self.state.stopped:
                    record = self._epoch(bar, tracker)
                    if report is not None:
                        report(record["epoch"], record["metrics"])
            # A step that broke for want of another process changed nothing: the weights are those of the step before.
            except (Stopped, distributed.Lost) as error:
                if getattr(error, "whole", True):
                    with contextlib.suppress(Stopped), self.stop.hold():
                        self._save()
                raise
            finally:
                tracker.close(finished=bool(self.state.stopped))

    def _start(self, bar: Stage) -> None:
        """What comes before the first step: the probe, and a checkpoint that knows its result."""
        if self.state.epoch == 0 and self.state.step == 0 and self.state.probe is None:
            if self.fit.probe:
                bar.describe("linear probe")
                self.network.eval()
                self.state.probe = self.team.lead(lambda: _finite(self.objective.probe(self.network)))
            if self.fit.ema:
                self.average = Average(self.network, self.fit.ema)
            self._save()

    def result(self) -> Result:
        """The best weights, wherever the run has just been."""
        weights = self.team.lead(lambda: self.state.best_file)
        network = self.network.to("cpu")
        network.load_state_dict(checkpoint.load_best(self.folder, weights))
        network = network.to(memory_format=torch.contiguous_format) if self.images else network
        state = self.state
        return Result(
            network.eval(),
            dict(state.best_metrics),
            state.history,
            state.probe,
            state.epoch,
            state.stopped,
            state.seconds,
        )

    # -- an epoch ----------------------------------------------------------------------------------------------------

    def _epoch(self, bar: Stage, tracker: Tracker) -> dict[str, Any]:
        """Train and validate one epoch, or what is left of it; returns its record."""
        started = time.monotonic()
        before = self.state.epoch_seconds
        rate = self._steps(bar, tracker)
        loss = self.state.loss / max(self.state.samples, 1)
        bar.describe(f"epoch {self.state.epoch + 1}/{self.fit.epochs}, loss {loss:.4g}, validating")
        metrics = self.team.lead(self._validate)
        seconds = before + time.monotonic() - started
        record = {"epoch": self.state.epoch + 1, "loss": loss, "lr": rate, "seconds": seconds, "metrics": metrics}
        with self.stop.hold():
            self._finish_epoch(record, tracker)
        return record

    def _steps(self, bar: Stage, tracker: Tracker) -> float:
        epoch, state = self.state.epoch, self.state
        self.objective.begin_epoch(epoch)
        frozen = epoch < self.fit.frozen or self.fit.backbone_lr == 0
        freeze(self.learner, self.groups, backbone=frozen)
        training_mode(self.network, batch_norm=self.fit.batch_norm)
        wrapped = self.team.wrap(self.learner, self.device)
        plan = self.plan.epoch(epoch)
        rate = self.schedule.apply(self.optimizer, (epoch + 1) * self.plan.steps - 1)
        began, before = time.monotonic(), state.epoch_seconds
        with contextlib.closing(self.loader.steps(epoch, plan, state.step)) as steps:
            for ready in steps:
                number = epoch * self.plan.steps + state.step
                with self.stop.hold():
                    rate = self.schedule.apply(self.optimizer, number)
                    loss = self._step(wrapped, ready)
                    if self.average is not None:
                        self.average.update(self.network, number)
                    state.step += 1
                    state.epoch_seconds = before + time.monotonic() - began
                    tracker.step(number + 1, loss, rate)
                    bar.advance()
                    bar.describe(f"epoch {epoch + 1}/{self.fit.epochs}, loss {state.loss / state.samples:.4g}")
                    if time.monotonic() - self.saved >= 60 * self.fit.checkpoint_minutes:
                        self._save()
        return rate

    def _step(self, wrapped: nn.Module, batches: list[Ready]) -> float:
        """One step of the optimiser; returns the mean loss of its samples, those of all processes together."""
        state = self.state
        torch.manual_seed(torch_seed(self.config.seed, state.epoch, state.step, self.team.rank))
        summed, samples = 0.0, 0
        try:
            for number, ready in enumerate(batches):
                last = number == len(batches) - 1
                # Averaging the gradients over the processes once a step is enough.
                alone = wrapped.no_sync() if not last and self.team.size > 1 else contextlib.nullcontext()
                with alone:
                    loss = self._loss(wrapped, ready)
                    # Averaged over processes this weighs every sample alike, also where slices differ in size.
                    share = ready.size * self.team.size / ready.whole / len(batches)
                    self.scaler.scale(loss * share).backward()
                summed += loss.item() * ready.size
                samples += ready.size
        except RuntimeError as error:
            raise self.team.explained(error) from error.__cause__
        # Every process knows the sum of all: then one that goes on alone reports the epoch's true loss.
        summed, whole = self.team.total([summed, float(samples)])
        if not math.isfinite(summed):
            raise HaechiError(
                f"the loss is no longer a number in epoch {state.epoch + 1}; lower fit.lr ({self.fit.lr:g})"
                + (", or use fit.precision fp32." if self.mixed is torch.float16 else ".")
            )
        if self.fit.clip:
            self.scaler.unscale_(self.optimizer)
            learning = [each for group in self.optimizer.param_groups for each in group["params"]]
            nn.utils.clip_grad_norm_(learning, self.fit.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        state.loss += summed
        state.samples += int(whole)
        return summed / whole

    def _loss(self, wrapped: nn.Module, ready: Ready) -> Tensor:
        batch, taught = (dict(self._moved(tensors)) for tensors in (ready.batch, ready.taught))
        with torch.autocast(self.device.type, dtype=self.mixed, enabled=self.mixed is not None):
            loss: Tensor = wrapped(batch, taught)
        return loss.float()

    def _moved(self, batch: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in batch.items():
            moved = tensor.to(self.device, non_blocking=True)
            is_images = self.images and moved.ndim == 4
            yield name, moved.contiguous(memory_format=torch.channels_last) if is_images else moved

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Metrics of what would be kept, on the validation split."""
        module = self.network if self.average is None else self.average.module
        module.eval()
        metrics = _finite(self.objective.validate(module, self.device)) or {}
        if self.objective.metric not in metrics:
            raise HaechiError(
                f"validation gave no {self.objective.metric} in epoch {self.state.epoch + 1}; look at the validation "
                f"split, or lower fit.lr."
            )
        return metrics

    def _finish_epoch(self, record: dict[str, Any], tracker: Tracker) -> None:
        state, value = self.state, record["metrics"][self.objective.metric]
        state.epoch += 1
        state.since_best += 1
        state.step, state.loss, state.samples, state.epoch_seconds = 0, 0.0, 0, 0.0
        state.history.append(record)
        if state.best is None or value > state.best:
            state.best, state.best_metrics, state.since_best = value, record["metrics"], 0
            if self.team.leads:
                kept = self.network if self.average is None else self.average.module
                state.best_file = checkpoint.save_best(self.folder, state.epoch, kept.state_dict())
        if state.epoch == self.fit.epochs:
            state.stopped = ALL_EPOCHS
        elif self.fit.patience and state.since_best >= self.fit.patience:
            state.stopped = f"no better for {self.fit.patience} epochs"
        state.metrics_bytes = tracker.epoch(record)
        self._save()

    def _save(self) -> None:
        now = time.monotonic()
        self.state.seconds = self.lost_seconds + now - self.began
        self.saved = now
        if not self.team.leads:
            return
        self.state.scaler = self.scaler.state_dict() if self.scaler.is_enabled() else {}
        average = self.average.module.state_dict() if self.average is not None else {}
        tensors = Tensors(self.learner.state_dict(), average, checkpoint.optimizer_tensors(self.optimizer))
        checkpoint.save(self.folder, self.state, tensors)


def _mixed(precision: str, device: torch.device) -> torch.dtype | None:
    """The type to compute in where that is not fp32."""
    if precision != "auto":
        return _TYPES[precision]
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _finite(metrics: Mapping[str, float] | None) -> dict[str, float] | None:
    """As plain numbers, without those that are none: JSON has no word for them."""
    if metrics is None:
        return None
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
