"""Where a model came from: what goes into a manifest's lineage beside the data's fingerprint."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path


def code_revision() -> str:
    """`<version>+<commit>` in a checkout, with `.changed` where files differ from it; else `<version>`."""
    try:
        version = importlib.metadata.version("haechi")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return version
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return version
    return f"{version}+{commit}{'.changed' if _git(root, 'status', '--porcelain', '-uno') else ''}"


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
