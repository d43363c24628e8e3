"""Running a model package with ONNX Runtime. No torch.

`load` verifies the package, starts a session on the best provider that really works here, replays the golden samples,
and only then hands out the model. What `Model.provider` says is what runs, not what was asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import functools
import io
import math
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from shared import settings
from shared.errors import BadInput, HaechiError, PackageRefused
from shared.manifest import GoldenTolerance, Manifest, TensorSpec, datatype_of
from shared.package import Package, open_package

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_ONNX_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_ERRORS_ONLY, _FATAL_ONLY = 3, 4  # ONNX Runtime's log levels; its errors reach us as exceptions in any case

_log = structlog.get_logger(__name__)


class Model:
    """A loaded model. `run` may be called from many threads at once."""

    def __init__(self, package: Package, session: Any, threads: int) -> None:
        self.package = package
        self.manifest: Manifest = package.manifest
        self.provider: str = session.get_providers()[0]
        """The provider in use, by ONNX Runtime's name, such as `CPUExecutionProvider`."""
        self.threads = threads
        """Threads that one call of `run` uses on the CPU."""
        self._session = session
        self._inputs = {spec.name: spec for spec in self.manifest.inputs}
        self._outputs = [spec.name for spec in self.manifest.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            inputs: one array for every input in the manifest, of its datatype and shape (-1: any length). Nothing is
                converted silently. Text (BYTES) may be an array of `str`, or of UTF-8 bytes.

        Returns:
            The manifest's outputs by name, in its order.

        Raises:
            BadInput: an input is missing, unknown, or of the wrong type or shape.
            HaechiError: ONNX Runtime failed (out of memory, say).
        """
        self._check(inputs)
        feeds = {name: _as_onnx(array, name) for name, array in inputs.items()}
        try:
            results = self._session.run(self._outputs, feeds)
        # ONNX Runtime's exceptions have no common base below Exception.
        except Exception as error:
            reason = _reason(error)
            if type(error).__name__ == "InvalidArgument":
                raise BadInput(f"model {self.manifest.name} does not take these inputs: {reason}.") from error
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise HaechiError(f"model {self.manifest.name} failed on {shapes}: {reason}.") from error
        return dict(zip(self._outputs, results, strict=True))

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        name = self.manifest.name
        for unknown in inputs.keys() - self._inputs.keys():
            nearest = difflib.get_close_matches(str(unknown), self._inputs, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it takes {', '.join(self._inputs)}."
            raise BadInput(f"model {name} has no input {unknown}; {hint}")
        for wanted, spec in self._inputs.items():
            if wanted not in inputs:
                raise BadInput(
                    f"input {wanted} of model {name} is missing; give {spec.datatype} of shape {spec.shape}."
                )
            array = inputs[wanted]
            if not isinstance(array, np.ndarray):
                raise BadInput(f"input {wanted} of model {name} must be a numpy array, not {type(array).__name__}.")
            problem = spec.mismatch(array)
            if problem:
                raise BadInput(f"input {wanted} of model {name} {problem}.")


def load(
    package: Package | Path | str,
    provider: str = "auto",
    threads: int | None = None,
    *,
    self_test: bool = True,
    warm_up: bool = True,
    spin: bool = True,
) -> Model:
    """Load a package for running.

    Args:
        package: an opened package, or the path of one, which is then verified with the keys this machine trusts.
        provider: `auto` takes CUDA where it really works and the CPU elsewhere; `cpu`, `cuda`, `tensorrt`, or the name
            of any provider of this ONNX Runtime, demand that one. TensorRT builds its engine for minutes, so it is
            used only when asked for.
        threads: threads for one call; None takes the setting `threads`, else one for each core we may use.
        self_test: replay the golden samples and compare. Switch it off only for a package that was just tested.
        warm_up: run once more, so that the first real call is as quick as the next.
        spin: let several threads of one call wait for each other without sleeping: a little quicker, and it keeps every
            core busy that others could use.

    Raises:
        PackageRefused: the package fails verification or its self-test, or the model is not what the manifest says.
        BadInput: the provider is unknown or cannot be used here; the sentence says why.
    """
    opened = package if isinstance(package, Package) else open_package(package)
    count = default_threads() if threads is None else threads
    if count < 1:
        raise BadInput(f"threads must be 1 or more, not {count}.")
    if provider == "auto" and cuda_problem() is None:
        try:
            return _start(opened, CUDA, count, self_test=self_test, warm_up=warm_up, spin=spin)
        except HaechiError as error:
            _log.warning("the GPU cannot be used, running on the CPU", package=opened.manifest.name, reason=str(error))
    name = CPU if provider == "auto" else _provider_name(provider)
    return _start(opened, name, count, self_test=self_test, warm_up=warm_up, spin=spin)


def _start(package: Package, provider: str, threads: int, *, self_test: bool, warm_up: bool, spin: bool) -> Model:
    session = _session(package, provider, threads, spin=spin)
    problem = _interface_problem(package.manifest, session)
    if problem:
        raise PackageRefused(f"{package.path} is refused: {problem}.")
    model = Model(package, session, threads)
    if self_test:
        replay_golden(model)
    if warm_up:
        model.run(package.golden.inputs)
    return model


def _session(package: Package, provider: str, threads: int, *, spin: bool) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.log_severity_level = _FATAL_ONLY
    # A model must not read files by naming them as its external weights; no file can lie below the null device.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(Path(os.devnull) / "none")
    )
    # TF32 rounds to 10 bits of mantissa; the golden samples and thresholds were made without it.
    cuda = (CUDA, {"use_tf32": "0"})
    chains: dict[str, list[Any]] = {CPU: [CPU], CUDA: [cuda, CPU], TENSORRT: [TENSORRT, cuda, CPU]}
    ort.set_default_logger_severity(_FATAL_ONLY)
    try:
        session = ort.InferenceSession(
            package.model, options, providers=chains.get(provider, [provider, CPU]), enable_fallback=0
        )
    except Exception as error:  # as in Model.run: no common base
        raise PackageRefused(f"{package.path} is refused: its model cannot be loaded ({_reason(error)}).") from error
    finally:
        ort.set_default_logger_severity(_ERRORS_ONLY)
    used = session.get_providers()[0]
    if used != provider:
        raise BadInput(
            f"provider {provider} cannot be used here: ONNX Runtime could not start it (are its libraries installed?); "
            f"use --provider auto."
        )
    return session


def _interface_problem(manifest: Manifest, session: Any) -> str | None:
    """Where the graph is not what the manifest declares, or None."""
    for kind, specs, nodes in (
        ("input", manifest.inputs, session.get_inputs()),
        ("output", manifest.outputs, session.get_outputs()),
    ):
        found = {node.name: node for node in nodes}
        undeclared = found.keys() - {spec.name for spec in specs} if kind == "input" else set()
        if undeclared:
            return f"its model has the {kind} {min(undeclared)}, which its manifest does not declare"
        for spec in specs:
            if spec.name not in found:
                return f"its model has no {kind} {spec.name}, which its manifest declares"
            problem = _node_problem(spec, found[spec.name])
            if problem:
                return f"the {kind} {spec.name} of its model {problem}"
    return None


def _node_problem(spec: TensorSpec, node: Any) -> str | None:
    if _ONNX_TYPES.get(node.type) != spec.datatype:
        return f"is {node.type} and its manifest says {spec.datatype}"
    # Outputs whose rank ONNX cannot infer have no shape; the golden samples check those.
    if node.shape and len(node.shape) != len(spec.shape):
        return f"has {len(node.shape)} dimensions and its manifest says {len(spec.shape)}"
    for have, want in zip(node.shape or [], spec.shape, strict=False):
        if isinstance(have, int) and want not in (-1, have):
            return f"has the shape {node.shape} and its manifest says {spec.shape}"
    return None


def replay_golden(model: Model) -> None:
    """Replay the golden samples. Raises `PackageRefused` if the model gives other outputs, or none."""
    golden = model.package.golden
    try:
        results = model.run(golden.inputs)
    except HaechiError as error:
        raise PackageRefused(f"{model.package.path} fails its self-test: {error}") from error
    for name, expected in golden.outputs.items():
        problem = tolerance_problem(name, expected, results[name], model.manifest.golden_tolerance)
        if problem:
            raise PackageRefused(
                f"{model.package.path} fails its self-test on {model.provider}: {problem}; the model and its golden "
                f"samples do not belong together, or this machine computes wrongly."
            )


def tolerance_problem(name: str, expected: np.ndarray, got: np.ndarray, tolerance: GoldenTolerance) -> str | None:
    """How the output `got` differs from the golden `expected` beyond the tolerance, or None.

    Floating point: |got - expected| <= atol + rtol * |expected| everywhere, as in numpy.isclose; NaN never passes.
    Everything else: at most the share `mismatch` of the values may differ.
    """
    if datatype_of(got) != datatype_of(expected):
        return f"{name} is {got.dtype} and not {expected.dtype}"
    if expected.shape != got.shape:
        return f"{name} has the shape {list(got.shape)} and not {list(expected.shape)}"
    if expected.dtype.kind == "f":
        wide, want = got.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            if np.isclose(wide, want, rtol=tolerance.rtol, atol=tolerance.atol).all():
                return None
            worst = float(np.max(np.abs(wide - want)))
        return f"{name} differs from the golden output by {f'{worst:.3g}' if math.isfinite(worst) else 'not a number'}"
    differs = got.astype(np.object_) != expected.astype(np.object_)
    share = float(np.mean(differs)) if expected.size else 0.0
    return None if share <= tolerance.mismatch else f"{share:.2%} of {name} differ from the golden output"


def _as_onnx(array: np.ndarray, name: str) -> np.ndarray:
    """ONNX Runtime takes text as objects, and everything else contiguous."""
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"input {name} is not UTF-8 text: {error}.") from error
    if array.dtype.kind == "U":
        return array.astype(np.object_)
    return np.ascontiguousarray(array).reshape(array.shape)


def _reason(error: Exception) -> str:
    """The readable part of ONNX Runtime's `[ONNXRuntimeError] : 1 : FAIL : ...`, without its last full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(" : ", 3)[-1][:300].rstrip(". ")


def default_threads() -> int:
    """The setting `threads`, else one for each core this process may use (affinity and container quota)."""
    configured = settings.load().threads
    if configured > 0:
        return configured
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A container limited to 2 CPUs on a machine of 64 still sees 64; as many threads would only trip over the quota.
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, math.ceil(int(quota) / int(period))))  # "max" is a ValueError: no quota
    return cores


def _provider_name(asked: str) -> str:
    """ONNX Runtime's name of a provider given in short (`cuda`) or in full; checks that CUDA can be used."""
    available = onnxruntime().get_available_providers()
    short = {name.removesuffix("ExecutionProvider").lower(): name for name in available}
    wanted = asked.removesuffix("ExecutionProvider").lower()
    if wanted not in short:
        raise BadInput(f"provider {asked} is not one of auto, {', '.join(sorted(short))}; use --provider auto.")
    if short[wanted] in (CUDA, TENSORRT):
        problem = cuda_problem()
        if problem:
            raise BadInput(f"provider {asked} cannot be used here: {problem}; use --provider auto.")
    return short[wanted]


@functools.cache
def cuda_problem() -> str | None:
    """Why CUDA cannot be used on this machine, or None if a driver and a GPU are there.

    Asked before ONNX Runtime tries, because its own attempt on a machine without a GPU writes errors to the terminal.
    """
    if CUDA not in onnxruntime().get_available_providers():
        return "this ONNX Runtime is built without CUDA"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return "there is no NVIDIA GPU that this process may use"
    # Finds CUDA and cuDNN where pip put them; what it prints when they lie elsewhere is no error yet.
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime().preload_dlls()
    return None


@functools.cache
def onnxruntime() -> types.ModuleType:
    """The onnxruntime module, imported without its remarks about hardware that a machine does not have."""
    with _without_lines("device_discovery.cc"):
        import onnxruntime as module
    module.set_default_logger_severity(_ERRORS_ONLY)
    return module


@contextlib.contextmanager
def _without_lines(*unwanted: str) -> Iterator[None]:
    """Drop lines holding one of `unwanted` from what native code writes to the standard error stream in this block."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # a service without a standard error stream
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            kept = [line for line in caught if not any(text.encode() in line for text in unwanted)]
            if kept:
                os.write(2, b"".join(kept))
