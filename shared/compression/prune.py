"""Taking channels out of a network: structured pruning and narrowing, each with distillation from what it was.

Which layers must lose a channel together (what is added to it, what reads it) is torch-pruning's dependency graph (Fang
et al. 2023). Which channels go is decided by what their loss does to the answer: the second-order term of the
distillation loss, for which gradients of sampled answers suffice (Molchanov et al. 2019; at the parent the first-order
term is zero, since it answers as itself). It is divided by what a channel costs, so that the same damage buys the most.

    shrink   in rounds: a few channels everywhere they matter least, then learning, until `keep` of the cost is left
    narrow   every layer to the same share of its channels at once, the most important ones, then long learning

Both give back a model with the same interface, the channels rounded to multiples of eight for the kernels' sake. How
large and quick it is does not depend on what it learns: `narrowed` and `shrunk` give it before, to be looked at.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.compression.core import Core, Layer
from shared.compression.imitate import Course, Imitation, Inputs, Material, Tutors, prepare, teach
from shared.compression.revive import NotTrainable, Revived, revive
from shared.errors import BadInput
from shared.progress import track

_STEP = 8
"""Channels are kept in multiples of this: vector kernels compute the missing ones anyway."""
_LEAST = 0.5
"""Share of the channels of an evenly narrowed network of the same cost that every layer keeps: what a channel matters
is judged before the network learns to do without it, and a layer that is all but gone cannot learn."""
_ROUNDS = 3
_SAMPLES = 256
"""Pictures by which channels are judged."""
_EMA = 0.99
"""Decay a step of the average of a student's weights, which generalises better than the last of them."""


def shrink(
    model: bytes,
    data: Inputs,
    *,
    keep: float,
    epochs: int,
    seed: int = 0,
    folder: Path,
    threads: int = 1,
    tutors: Tutors | None = None,
) -> bytes:
    """Prune a model in rounds and teach it after each.

    Args:
        data: inputs of the training split, or a data set that has them. The model's own answers are the target.
        keep: share of the network's multiply-adds and of its weights that may be left, 0 to 1.
        epochs: of learning in all rounds together; two thirds of them come after the last.
        folder: for the runs while they last.
        tutors: packages that teach the classes in the place of the model itself.

    Returns:
        an ONNX file in fp32 with the same interface.

    Raises:
        NotTrainable: see `shared.compression.revive.trainable`.
        BadInput: too few samples, nothing can be pruned, or a tutor knows other classes.
    """
    _check_share("keep", keep)
    revived = revive(model, threads)
    material, task = prepare(revived, data, seed=seed, threads=threads, tutors=tutors)
    rounds = min(_ROUNDS, epochs)
    lengths = _lengths(epochs, rounds)
    whole, widths = _costs(revived.core, _example(revived)), _widths(revived.core)
    for number in range(rounds):
        target = keep ** ((number + 1) / rounds)
        channels = Channels(revived.core, _example(revived))
        channels.judge(task, material, seed + number)
        channels.prune(channels.cheapest(target, whole, widths))
        course = Course(lengths[number])
        revived.core = teach(task, revived.core, course, folder=folder / f"round-{number}", seed=seed, threads=threads)
    return revived.graft()


def shrunk(model: bytes, data: Inputs, *, keep: float, seed: int = 0, threads: int = 1) -> bytes:
    """About what `shrink` gives, pruned at once and not taught: as small and as quick. Errors as there."""
    _check_share("keep", keep)
    revived = revive(model, threads)
    material, task = prepare(revived, data, seed=seed, threads=threads)
    channels = Channels(revived.core, _example(revived))
    channels.judge(task, material, seed)
    channels.prune(channels.cheapest(keep, channels.costs, _widths(revived.core)))
    return revived.graft()


def narrow(
    model: bytes,
    data: Inputs,
    *,
    width: float,
    epochs: int,
    seed: int = 0,
    folder: Path,
    threads: int = 1,
    tutors: Tutors | None = None,
) -> bytes:
    """Give every layer `width` times its channels (its most important ones) and teach the narrow network for long.

    Multiply-adds and weights become about `width`² of what they were. Arguments, result and errors as in `shrink`.
    """
    _check_share("width", width)
    revived = revive(model, threads)
    material, task = prepare(revived, data, seed=seed, threads=threads, tutors=tutors)
    channels = Channels(revived.core, _example(revived))
    channels.judge(task, material, seed)
    channels.prune(channels.uniform(width))
    course = Course(epochs, ema=_EMA, growing=True, mixed=True)
    revived.core = teach(task, revived.core, course, folder=folder / "narrow", seed=seed, threads=threads)
    return revived.graft()


def narrowed(model: bytes, *, width: float, threads: int = 1) -> bytes:
    """A network of the shape that `narrow` gives, with some of the channels and not taught. Errors as there."""
    _check_share("width", width)
    revived = revive(model, threads)
    channels = Channels(revived.core, _example(revived))
    channels.prune(channels.uniform(width))
    return revived.graft()


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise BadInput(f"{name} must lie between 0 and 1, not {value:g}.")


def _lengths(epochs: int, rounds: int) -> list[int]:
    """Epochs of each round; the last has two thirds of them."""
    early = max(1, epochs // (3 * (rounds - 1))) if rounds > 1 else 0
    return [early] * (rounds - 1) + [max(1, epochs - early * (rounds - 1))]


def _example(revived: Revived) -> Tensor:
    return torch.zeros(2, *revived.shape[1:])


# -- costs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of a layer, as it is."""

    multiply_adds: float
    weights: float


def _costs(core: Core, example: Tensor) -> dict[nn.Module, Cost]:
    """Multiply-adds of each convolution and linear layer for one sample, and its weights."""
    found: dict[nn.Module, Cost] = {}

    def hook(module: Any, _: Any, output: Tensor) -> None:
        weights = module.weight.numel()
        places = output[0].numel() / module.weight.shape[0]
        found[module] = Cost(weights * places, weights)

    layers = [each for each in core.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    handles = [each.register_forward_hook(hook) for each in layers]
    with torch.no_grad():
        core.eval()(example)
    for handle in handles:
        handle.remove()
    return found


def _widths(core: Core) -> dict[str, int]:
    """Outputs of each layer."""
    return {key: cast(Any, layer).inner.weight.shape[0] for key, layer in core.layers.items()}


# -- channels -----------------------------------------------------------------------------------------------------


@dataclass
class Bundle:
    """Channels of several layers that can only go together."""

    root: Layer
    size: int
    makers: list[tuple[Layer, NDArray[np.int64], NDArray[np.int64]]]
    """Layers that make them, with the channel of the layer for each channel of the bundle that it makes."""
    outputs: set[nn.Module] = field(default_factory=set)
    inputs: dict[nn.Module, float] = field(default_factory=dict)
    """Layers that read them, and what share of their inputs these are."""
    importance: NDArray[np.float64] = field(init=False)
    """Of each channel; 0 until they are judged."""

    def __post_init__(self) -> None:
        self.importance = np.zeros(self.size)


class Channels:
    """What can be pruned in a core, and how much each channel matters."""

    def __init__(self, core: Core, example: Tensor) -> None:
        """
        Raises:
            BadInput: every layer feeds an output or something that counts channels, or they cannot be followed.
        """
        import torch_pruning

        self._core = core.eval().requires_grad_(True)
        self._example = example
        try:
            with _silent():
                self._graph = torch_pruning.DependencyGraph().build_dependency(core, example)
        except Exception as error:  # whatever its tracing stumbles over: splits and shuffles of channels, mostly
            raise BadInput(
                f"which channels of this model belong together could not be found ({type(error).__name__}: {error}); "
                f"leave pruning out."
            ) from error
        self._layers = {layer.inner: layer for layer in core.layers.values()}
        self._keys = {layer: key for key, layer in core.layers.items()}
        self.costs = _costs(core, example)
        fixed = [layer.inner for layer in core.rigid()]
        kinds = (nn.Conv2d, nn.Linear)
        groups = list(self._graph.get_all_groups(ignored_layers=fixed, root_module_types=kinds))
        self.bundles = [self._bundle(group) for group in groups]
        self.bundles = [bundle for bundle in self.bundles if bundle.size > _STEP and bundle.makers]
        if not self.bundles:
            raise BadInput("no layer of this model can lose channels; leave pruning out.")

    def _bundle(self, group: Any) -> Bundle:
        root = group[0].dep.target.module
        bundle = Bundle(self._layers[root], self._graph.get_out_channels(root), [])
        for item in group.items:
            module = item.dep.target.module
            if module not in self._layers or not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            if self._graph.is_out_channel_pruning_fn(item.dep.handler):
                bundle.outputs.add(module)
                if not (isinstance(module, nn.Conv2d) and module.groups == module.out_channels > 1):
                    own, of_root = np.array(item.idxs), np.array(item.root_idxs)
                    bundle.makers.append((self._layers[module], own, of_root))
            else:
                inputs = module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
                bundle.inputs[module] = len(item.idxs) / inputs
        return bundle

    # -- judging ----------------------------------------------------------------------------------------------------

    def judge(self, task: Imitation, material: Material, seed: int) -> None:
        """Set the importance of every channel: the mean square of how the answer moves as it is faded out."""
        generator = torch.Generator().manual_seed(seed)
        for bundle in self.bundles:
            bundle.importance[:] = 0.0
        most = min(_SAMPLES, len(material.samples))
        batches = track(material.batches(16, most), "Judging channels", total=-(-most // 16))
        for x in batches:
            with self._watched() as seen:
                outputs = self._core(x)
                task.sampled_loss(outputs, generator).backward()
            for bundle in self.bundles:
                moved = torch.zeros(len(x), bundle.size)
                for layer, own, of_root in bundle.makers:
                    moved[:, of_root] += seen[layer][:, own]
                bundle.importance += moved.square().sum(0).double().numpy()
        self._core.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[dict[Layer, Tensor]]:
        """Collects, for every layer, the derivative [N, C] of the loss by a gate on each of its outputs."""
        seen: dict[Layer, Tensor] = {}

        def forward(layer: Layer, _: Any, output: Tensor) -> None:
            def backward(gradient: Tensor) -> None:
                moved = (output.detach() * gradient).flatten(2).sum(2) if output.dim() > 2 else output * gradient
                seen[layer] = moved.detach()

            output.register_hook(backward)

        handles = [layer.register_forward_hook(forward) for bundle in self.bundles for layer, _, _ in bundle.makers]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    # -- choosing ---------------------------------------------------------------------------------------------------

    def uniform(self, width: float) -> list[int]:
        """Channels to keep in each bundle: `width` of them all, rounded."""
        return [_rounded(width * bundle.size, bundle.size) for bundle in self.bundles]

    def cheapest(self, target: float, whole: Mapping[nn.Module, Cost], widths: Mapping[str, int]) -> list[int]:
        """Channels to keep in each bundle so that `target` of the costs `whole` are left, where they matter least.
        `widths`: how many outputs each layer had at first, by its key.

        Eight at a time go from the bundle in which they matter least for what they cost. It ends early where every
        bundle is at its least.
        """
        ledger = _Ledger(self.bundles, self.costs, whole)
        sizes = np.array([bundle.size for bundle in self.bundles])
        least = [_LEAST * target**0.5 * widths[self._keys[bundle.root]] for bundle in self.bundles]
        lost = [np.cumsum(np.concatenate([[0.0], np.sort(bundle.importance)])) for bundle in self.bundles]
        while (over := ledger.left(sizes) - target).max() > 0:
            fewer = np.array([_fewer(now, each) for now, each in zip(sizes, least, strict=True)])
            saved = ledger.saved(sizes, fewer)[over > 0].sum(0)
            damage = np.array(
                [
                    lost[index][bundle.size - fewer[index]] - lost[index][bundle.size - sizes[index]]
                    for index, bundle in enumerate(self.bundles)
                ]
            )
            if not (saved > 0).any():
                break
            best = int(np.argmin(np.where(saved > 0, damage / np.maximum(saved, 1e-12), np.inf)))
            sizes[best] = fewer[best]
        return [int(size) for size in sizes]

    # -- pruning ----------------------------------------------------------------------------------------------------

    def prune(self, sizes: Sequence[int]) -> None:
        """Take the least important channels out until each bundle has its size. This object is spent then."""
        for bundle, size in zip(self.bundles, sizes, strict=True):
            gone = np.argsort(bundle.importance, kind="stable")[: bundle.size - size]
            if len(gone):
                handler = self._graph.get_pruner_of_module(bundle.root.inner).prune_out_channels
                self._graph.get_pruning_group(bundle.root.inner, handler, gone.tolist()).prune()
        with torch.no_grad():
            self._core(self._example)


class _Ledger:
    """What a core costs as a function of its bundles' sizes: a layer costs its share of outputs times that of inputs.

    Costs are multiply-adds and weights, as shares of a whole: arrays [2, ...].
    """

    def __init__(
        self, bundles: Sequence[Bundle], costs: Mapping[nn.Module, Cost], whole: Mapping[nn.Module, Cost]
    ) -> None:
        modules = {module: index for index, module in enumerate(costs)}
        self._sizes = np.array([bundle.size for bundle in bundles], dtype=np.float64)
        self._outputs = np.zeros((len(modules), len(bundles)))
        self._inputs = np.zeros((len(modules), len(bundles)))
        for index, bundle in enumerate(bundles):
            for module in bundle.outputs:
                self._outputs[modules[module], index] = 1.0
            for module, part in bundle.inputs.items():
                if not (isinstance(module, nn.Conv2d) and module.groups > 1):  # depthwise: its outputs say it all
                    self._inputs[modules[module], index] = part
        totals = np.array(
            [[sum(each.multiply_adds for each in whole.values())], [sum(each.weights for each in whole.values())]]
        )
        self._costs = np.array([[each.multiply_adds, each.weights] for each in costs.values()]).T / totals

    def left(self, sizes: NDArray[Any]) -> NDArray[np.float64]:
        """[2] costs of the core with these sizes."""
        outputs, inputs = self._shares(sizes)
        return np.asarray((self._costs * outputs * inputs).sum(1))

    def saved(self, sizes: NDArray[Any], fewer: NDArray[Any]) -> NDArray[np.float64]:
        """[2, B] what goes if one bundle alone goes from its size to fewer channels."""
        outputs, inputs = self._shares(sizes)
        step = (sizes - fewer) / self._sizes
        linear = (self._costs * inputs) @ self._outputs + (self._costs * outputs) @ self._inputs
        return np.asarray(step * linear - step**2 * (self._costs @ (self._outputs * self._inputs)))

    def _shares(self, sizes: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gone = 1.0 - sizes / self._sizes
        return 1.0 - self._outputs @ gone, 1.0 - self._inputs @ gone


def _rounded(wanted: float, size: int) -> int:
    """The nearest multiple of eight, at least one and at most `size`."""
    return min(size, max(_STEP, _STEP * round(wanted / _STEP)))


def _fewer(now: int, least: float) -> int:
    """The next smaller multiple of eight, but not below `least`."""
    fewer = _STEP * ((now - 1) // _STEP)
    return fewer if fewer >= max(_STEP, least) else now


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """torch-pruning speaks to its developers in warnings and in its log."""
    logger = logging.getLogger("torch_pruning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


__all__ = ["Channels", "NotTrainable", "narrow", "narrowed", "shrink", "shrunk"]
