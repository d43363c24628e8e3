"""What this machine is, as far as speed goes. Figures without the CPU or GPU they were taken on mean nothing."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path

_EXTENSIONS = ("avx2", "fma", "f16c", "avx_vnni", "avx512", "amx", "sse4_2", "asimd", "sve", "i8mm")
"""Beginnings of CPU flags that decide how fast ONNX Runtime's kernels are."""


def facts() -> dict[str, str]:
    """`cpu`, `cores`, `flags`, `load` (where the system tells it), `gpu` (where one can be used) and `python`, in words
    fit for a table. The load is that of now: ask before measuring.
    """
    found = {"cpu": _cpu_info().get("model name") or platform.processor() or platform.machine()}
    found["cores"] = f"{usable_cores()} of {os.cpu_count()}"
    found["flags"] = " ".join(sorted(flag for flag in cpu_flags() if flag.startswith(_EXTENSIONS))) or "unknown"
    if hasattr(os, "getloadavg"):
        found["load"] = f"{os.getloadavg()[0]:.1f} before the first measurement"
    name = gpu()
    if name:
        found["gpu"] = name
    found["python"] = f"{platform.python_version()} on {platform.platform()}"
    return found


def usable_cores() -> int:
    """Cores that this process may use by its affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> frozenset[str]:
    """The processor's features by the kernel's names, such as `avx512_vnni`; empty where the system does not tell."""
    info = _cpu_info()
    return frozenset((info.get("flags") or info.get("features") or "").split())


@functools.cache
def _cpu_info() -> dict[str, str]:
    """The first processor of lscpu's source, /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


@functools.cache
def gpu() -> str:
    """The name of the first NVIDIA GPU that this process may use; empty if there is none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return ""
    device = ctypes.c_int(0)
    name = ctypes.create_string_buffer(256)
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return ""
    if driver.cuDeviceGetName(name, len(name), device) != 0:
        return ""
    return name.value.decode("utf-8", "replace")
