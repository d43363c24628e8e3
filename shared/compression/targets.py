"""What a compressed model is to run on, and which number formats are quick there.

ONNX Runtime's kernels decide: on x86 they multiply unsigned activations with signed weights (U8S8) two to four times as
fast as floats, and signed with signed (S8S8) hardly faster at all; on ARM it is the other way round. Without VNNI the
x86 instruction adds two products in 16 bits, which overflow for weights of 8 bits: such weights get 7 (`reduce_range`).
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from shared import machine
from shared.errors import BadInput


@dataclass(frozen=True)
class Target:
    """One kind of hardware."""

    name: str
    says: str
    """In words, for help and certificate."""
    provider: str
    """For `shared.runtime.load`."""
    int8: bool
    """Whether the provider has int8 kernels worth using."""
    fp16: bool = False
    signed_activations: bool = False
    reduce_range: bool = False
    symmetric: bool = False
    """Zero points are all 0 (TensorRT knows no others)."""
    per_channel: bool = True

    @property
    def types(self) -> str:
        """Activations and weights, as the field writes them."""
        weights = "S7" if self.reduce_range else "S8"
        return f"{'S8' if self.signed_activations else 'U8'}{weights}"


TARGETS = {
    target.name: target
    for target in (
        Target("x86-vnni", "x86 with VNNI (Intel since 2019, AMD since Zen 4)", "cpu", int8=True),
        Target("x86", "x86 without VNNI", "cpu", int8=True, reduce_range=True),
        Target("arm64", "64-bit ARM", "cpu", int8=True, signed_activations=True),
        Target("cuda", "NVIDIA GPU through CUDA", "cuda", int8=False, fp16=True),
        Target(
            "tensorrt",
            "NVIDIA GPU through TensorRT",
            "tensorrt",
            int8=True,
            fp16=True,
            signed_activations=True,
            symmetric=True,
        ),
    )
}


def target_named(name: str) -> Target:
    """The target of that name. BadInput if there is none."""
    if name not in TARGETS:
        raise BadInput(f"there is no target {name!r}; use one of {', '.join(TARGETS)}.")
    return TARGETS[name]


def mismatch(target: Target) -> str:
    """A sentence where this machine is not what the target names; empty where it is.

    Figures are then this machine's: they say little of the speed there, and int8 sums may even come out differently.
    """
    arm = platform.machine().lower() in ("aarch64", "arm64")
    vnni = any("vnni" in flag for flag in machine.cpu_flags())
    if target.provider != "cpu":
        return ""  # such a model could not have been run here at all
    if target.name == "arm64":
        if arm:
            return ""
        return (
            f"measured on {_here(arm, vnni)}, not on ARM: its speed says nothing, and int8 sums may overflow here that "
            f"do not there; measure again there."
        )
    if arm:
        return f"measured on {_here(arm, vnni)}, not on x86: measure its speed again there."
    if target.name == "x86-vnni" and not vnni:
        return (
            "measured on x86 without VNNI: with it int8 is faster, and sums that overflow here do not; measure again "
            "there, or use --target x86 for this machine."
        )
    return ""


def best_here() -> str:
    """The target that this machine is."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "arm64"
    return "x86-vnni" if any("vnni" in flag for flag in machine.cpu_flags()) else "x86"


def _here(arm: bool, vnni: bool) -> str:
    return "64-bit ARM" if arm else f"x86 {'with' if vnni else 'without'} VNNI"
