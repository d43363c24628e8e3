"""Down the ladder: try, measure, stop at the first rung that meets the budget, and say why.

The budget is what may be lost (`max_drop`) and what must be won (milliseconds, bytes, times faster). Where nothing must
be won, the first model in int8 (on a GPU: in float16) wins that holds the drop and is smaller and surely faster than
its parent; rungs that train are then not tried. A model that is slower than its parent, or loses more than allowed, is
never written, whatever the budget.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared.compression import rungs as ways
from shared.compression.candidate import Bench, Candidate, Measured, Timed, contents, size_of
from shared.compression.rungs import RUNGS, TRAINED, Climb, Skipped
from shared.compression.targets import best_here, target_named
from shared.errors import BadInput, HaechiError
from shared.evaluation import open_data
from shared.package import Package, open_package
from shared.runtime import cuda_problem, load

CALIBRATION = 64


@dataclass(frozen=True)
class Budget:
    """What a compressed package may lose, and what it must reach; None: anything."""

    max_drop: float = 0.005
    max_latency_ms: float | None = None
    max_bytes: int | None = None
    """Of the whole package, without its certificate page."""
    min_speedup: float | None = None

    @property
    def asks(self) -> bool:
        """Whether there is something to reach."""
        return any(each is not None for each in (self.max_latency_ms, self.max_bytes, self.min_speedup))

    def missed(self, one: Timed) -> list[str]:
        """What a model does not reach, in words."""
        size, latency, faster = size_of(one.package), one.after.p50, one.speed.faster
        found = []
        if self.max_latency_ms is not None and latency > self.max_latency_ms:
            found.append(f"{latency:.1f} ms, asked for {self.max_latency_ms:g}")
        if self.max_bytes is not None and size > self.max_bytes:
            found.append(f"{size:,} bytes, asked for {self.max_bytes:,}")
        if self.min_speedup is not None and faster < self.min_speedup:
            found.append(f"{faster:.2f}× as fast, asked for {self.min_speedup:g}×")
        return found


@dataclass(frozen=True)
class Options:
    """How to go about it."""

    target: str
    budget: Budget = field(default_factory=Budget)
    threads: int = 1
    seed: int = 0
    samples: int = CALIBRATION
    epochs: int = 20
    rungs: tuple[str, ...] = ()
    """Which to try, in the ladder's order; empty: as the budget has it."""
    teachers: tuple[Path, ...] = ()
    """Packages of the same labels that teach in the rungs `prune` and `student`, in the place of the package itself."""


@dataclass
class Step:
    """A rung that was tried, and what became of it."""

    rung: str
    result: str
    """`chosen`, `left`, `skipped`, `failed`."""
    why: str
    measured: Measured | None = None
    sketch: Timed | None = None
    """What it is without having been taught, if that was enough to see."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"rung": self.rung, "result": self.result, "why": self.why}
        if self.measured is not None:
            found |= {"note": self.measured.candidate.note, **self.measured.as_dict()}
            if self.measured.warning:
                found["warning"] = self.measured.warning
        if self.sketch is not None:
            found |= {"model_bytes": len(self.sketch.package.model), "speedup": self.sketch.speed.faster}
        return found


@dataclass
class Climbed:
    """The winner, and the way to it."""

    bench: Bench
    climb: Climb
    steps: list[Step]
    chosen: Measured
    why: str
    """Why the ladder stopped there."""


class NothingHolds(HaechiError):
    """No rung gave a model that may be written."""

    def __init__(self, message: str, steps: Sequence[Step]) -> None:
        super().__init__(message)
        self.steps = list(steps)


def climb(package: Package, data: Path, options: Options, folder: Path) -> Climbed:
    """Try the rungs on a package until the budget is met.

    Args:
        data: data set for the evaluator that the manifest names.
        folder: for what is made meanwhile.

    Raises:
        NothingHolds: no rung met the budget; the message says what to relax.
        BadInput: target, rung or data are unknown, or the target's provider is not here.
    """
    target = target_named(options.target)
    names = _names(options)
    _check_teachers(package, options, names)
    problem = cuda_problem() if target.provider != "cpu" else None
    if problem:
        raise BadInput(
            f"target {target.name} cannot be measured here: {problem}; compress on a machine with that GPU, or use "
            f"--target {best_here()}."
        )
    opened = open_data(package, data)
    parent = load(package, target.provider, options.threads)
    samples = ways.take_samples(opened, options.samples, options.seed)
    work = Path(tempfile.mkdtemp(dir=folder))
    bench = Bench(
        package=package,
        target=target,
        data=opened,
        threads=options.threads,
        seed=options.seed,
        max_drop=options.budget.max_drop,
        folder=Path(tempfile.mkdtemp(dir=folder)),
        parent=parent,
        example=opened.example(),
        evaluation=opened.evaluate(parent.run),
    )
    state = Climb(package.model, target, opened, samples, options.threads, options.seed, options.epochs, work)
    state.tutors, state.labels = options.teachers, tuple(package.manifest.labels)
    return _Ladder(bench, state, options).run(names)


def _names(options: Options) -> list[str]:
    unknown = set(options.rungs) - set(RUNGS)
    if unknown:
        raise BadInput(f"there is no rung {min(unknown)!r}; use some of {', '.join(RUNGS)}.")
    if options.rungs:
        return [name for name in RUNGS if name in options.rungs]
    return [name for name in RUNGS if options.budget.asks or name not in TRAINED]


def _check_teachers(package: Package, options: Options, names: Sequence[str]) -> None:
    """Say before the work, not after hours, that a teacher cannot teach.

    Raises:
        BadInput: no rung would ask it, or it is of another task or of other labels.
    """
    if not options.teachers:
        return
    if not {"prune", "student"}.intersection(names):
        raise BadInput("--teacher teaches in the rungs prune and student; ask for one with --rungs or --min-speedup.")
    ours = package.manifest
    for path in options.teachers:
        theirs = open_package(path).manifest
        if not ours.labels or sorted(theirs.labels) != sorted(ours.labels):
            raise BadInput(f"--teacher {path} does not know the labels of {ours.name}; give one that learned them.")
        if "logits" not in {spec.name for spec in theirs.outputs}:
            raise BadInput(f"--teacher {path} has no output logits; give a package of the task image-classification.")


class _Ladder:
    def __init__(self, bench: Bench, state: Climb, options: Options) -> None:
        self.bench, self.state, self.options = bench, state, options
        self.budget = options.budget
        self.settings = {
            "target": options.target,
            "budget": asdict(options.budget),
            "calibration_samples": len(state.samples),
            "seed": options.seed,
            "epochs": options.epochs,
            "teachers": [open_package(path).fingerprint for path in options.teachers],
        }
        self.steps: list[Step] = []
        state.hopeful = self._hopeful

    def run(self, names: Sequence[str]) -> Climbed:
        for name in names:
            found = self._rung(name)
            if found is not None:
                return Climbed(self.bench, self.state, self.steps, found, self._why(found))
        best = self._best()
        if best is None or self.budget.asks:
            raise NothingHolds(self._sentence(), self.steps)
        step = next(step for step in self.steps if step.measured is best)
        step.result, step.why = "chosen", "the smallest that holds the drop and is not slower"
        return Climbed(
            self.bench, self.state, self.steps, best, "all rungs were tried; this is the smallest that holds"
        )

    def _rung(self, name: str) -> Measured | None:
        """Try the candidates of a rung; the first that meets the budget."""
        try:
            for candidate in RUNGS[name](self.state):
                measured = self._measure(candidate)
                if measured is not None and self._meets(measured):
                    self.steps[-1].result = "chosen"
                    return measured
        except Skipped as reason:
            self.steps.append(Step(name, "skipped", str(reason)))
        return None

    def _hopeful(self, make: Callable[[], Candidate]) -> bool:
        """Whether a model that is not taught yet reaches what teaching cannot change."""
        if not self.budget.asks:
            return True
        candidate = make()
        try:
            timed = self.bench.time(candidate, self.settings)
        except HaechiError as error:
            self.steps.append(Step(candidate.rung, "failed", str(error).rstrip(".")))
            return False
        missed = self.budget.missed(timed)
        if missed:
            self.steps.append(Step(candidate.rung, "skipped", "; ".join(missed), sketch=timed))
        return not missed

    def _measure(self, candidate: Candidate) -> Measured | None:
        try:
            measured = self.bench.measure(candidate, self.settings)
        except HaechiError as error:
            self.steps.append(Step(candidate.rung, "failed", str(error).rstrip(".")))
            return None
        self.state.done.append(measured)
        why = self._problem(measured) or "; ".join(self.budget.missed(measured)) or self._not_yet(measured)
        self.steps.append(Step(candidate.rung, "left", why or "meets the budget", measured))
        return measured

    def _problem(self, one: Measured) -> str:
        """Why a model may not be written at all; empty if it may."""
        if not one.holds:
            shown = one.drop.point if one.warning else one.drop.high
            kind = "drop" if one.warning else "upper bound of the drop"
            return f"{kind} {shown:.4f}, allowed {self.budget.max_drop:g}"
        if one.slower:
            return f"slower: {one.speed.point:.2f} times the parent's time"
        return ""

    def _not_yet(self, one: Measured) -> str:
        """Without anything to reach, the ladder goes on to the formats that are quick on the target."""
        if self.budget.asks:
            return ""
        if size_of(one.package) >= size_of(self.bench.package):
            return "not smaller"
        if one.candidate.precision == "float" and not self._float_only():
            return "smaller formats come further down"
        if one.candidate.precision == "fp16" and self.options.target == "tensorrt":
            return "int8 comes further down"
        return "" if one.faster or one.candidate.precision == "float" else "not surely faster"

    def _float_only(self) -> bool:
        """Whether only rungs in float were asked for."""
        return bool(self.options.rungs) and set(self.options.rungs) <= {"clean", "weights"}

    def _meets(self, one: Measured) -> bool:
        return not (self._problem(one) or self.budget.missed(one) or self._not_yet(one))

    def _best(self) -> Measured | None:
        """The smallest that may be written and is smaller than the parent."""
        fit = [
            one
            for one in self.state.done
            if not self._problem(one) and size_of(one.package) < size_of(self.bench.package)
        ]
        return min(fit, key=lambda one: size_of(one.package)) if fit else None

    def _why(self, one: Measured) -> str:
        if self.budget.asks:
            return "it is the first that meets the budget"
        kind = one.candidate.precision
        return f"it is the first in {kind} that holds the drop and is smaller and faster than its parent"

    def _sentence(self) -> str:
        """What to relax."""
        tried = [step.measured for step in self.steps if step.measured is not None]
        name = self.bench.package.manifest.name
        sketched = [step.sketch for step in self.steps if step.sketch is not None]
        if not tried and sketched:
            small = min(sketched, key=lambda one: one.after.p50)
            return (
                f"no width or share of {name} meets the budget, so none was taught and nothing was written. Nearest "
                f"is {small.candidate.rung!r}: {'; '.join(self.budget.missed(small))}; "
                f"relax {self._options_missed(small)}."
            )
        if not tried:
            reasons = "; ".join(f"{step.rung}: {step.why}" for step in self.steps)
            return f"{name} cannot be compressed for {self.options.target}: {reasons}."
        holding = [one for one in tried if not self._problem(one)]
        if holding:
            near = min(holding, key=lambda one: one.after.p50)
            missed = "; ".join(self.budget.missed(near)) or "nothing smaller or faster"
            return (
                f"no rung met the budget for {name}, so nothing was written. Nearest is {near.candidate.rung!r}: "
                f"{missed}; relax {self._options_missed(near)}, or give more --epochs."
            )
        quick = [one for one in tried if not one.slower]
        near = min(quick or tried, key=lambda one: one.drop.high)
        if not quick:
            return f"every rung made {name} slower on this machine, so nothing was written; use another --target."
        needed = near.drop.point if near.warning else near.drop.high
        return (
            f"no rung holds the drop of {self.budget.max_drop:g} for {name}, so nothing was written. Nearest is "
            f"{near.candidate.rung!r}, which needs --max-drop {_up(needed):g}; relax that, give more samples in DATA, "
            f"or ask for the rung qat with --rungs or more --epochs."
        )

    def _options_missed(self, one: Timed) -> str:
        budget, found = self.budget, []
        if budget.max_latency_ms is not None and one.after.p50 > budget.max_latency_ms:
            found.append(f"--max-latency-ms to {one.after.p50 * 1.05:.1f}")
        if budget.max_bytes is not None and size_of(one.package) > budget.max_bytes:
            found.append(f"--max-bytes to {size_of(one.package)}")
        if budget.min_speedup is not None and one.speed.faster < budget.min_speedup:
            found.append(f"--min-speedup to {one.speed.faster * 0.95:.2f}")
        return " and ".join(found) or "--max-drop"


def _up(value: float) -> float:
    """The next larger number with three decimals."""
    return -(-value * 1000 // 1) / 1000


__all__ = ["Budget", "Climbed", "NothingHolds", "Options", "Step", "climb", "contents"]
