"""An environment of their own for the servers that ours is compared with, made by uv once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.figures import HAECHI

_UV = HAECHI.with_name("uv")
_SHOWN = ("litserve", "fastapi", "uvicorn", "onnxruntime", "numpy")
_ASK = f"""
import json
from importlib.metadata import PackageNotFoundError, version
found = {{}}
for name in {_SHOWN!r}:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Environment:
    """A Python with what the other servers need."""

    python: Path
    versions: dict[str, str]
    trouble: str = ""
    """Why LitServe is not in it."""


def prepare(given: Path | None) -> Environment:
    """The environment, made now if it is not there yet.

    It has the same ONNX Runtime as ours, so that servers are compared and not engines. Where the packages cannot be
    installed, it is this very environment, which has FastAPI but no LitServe.

    Args:
        given: its folder; default: one in the user's cache, named after what is in it.
    """
    wanted = ["litserve", "fastapi", "uvicorn[standard]", f"onnxruntime=={_ours()}", "numpy", "opencv-python-headless"]
    folder = given or _cache() / hashlib.sha256(" ".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    python = folder / "bin" / "python"
    ready = folder / ".ready"  # written last: an installation that was interrupted starts over
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        problem = _run(folder, _UV, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        problem = problem or _run(
            folder, _UV, "pip", "install", "--quiet", "--system-certs", "--python", str(python), *wanted
        )
        if problem:
            return Environment(Path(sys.executable), _versions(Path(sys.executable)), f"not installed: {problem}")
        ready.touch()
    return Environment(python, _versions(python))


def _ours() -> str:
    """The release of ONNX Runtime here, whichever of its builds it is."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "haechi" / "benchmarks"


def _versions(python: Path) -> dict[str, str]:
    done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found | {"haechi": version("haechi")}


def _run(folder: Path, *command: str | Path) -> str:
    """Run a command in a folder; the last line of what it said if it failed, else nothing.

    Not in the project's folder: uv would heed what pyproject.toml leaves out of ours.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"]
    return "" if done.returncode == 0 else said[-1].strip()
