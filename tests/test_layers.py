"""The rules of the house: which part may import which, no torch at run time, files and functions that fit a screen."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"
FOLDERS = ("shared", "edge", "solutions", "data_tools", "benchmarks")
BLOCKED = ("torch", "torchvision", "timm", "ultralytics", "transformers", "onnx", "onnxscript", "onnxslim")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def copy_of_the_rules(folder: Path) -> None:
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for package in (
        "shared",
        "shared/training",
        "edge",
        "solutions",
        "solutions/inspection",
        "solutions/cctv",
        "data_tools",
    ):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()


def test_the_import_rules_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("shared/core.py", "import solutions.inspection"),
        ("shared/core.py", "import edge"),
        ("edge/agent.py", "import solutions"),
        ("edge/agent.py", "import data_tools"),
        ("data_tools/split.py", "import solutions"),
        ("solutions/cctv/service.py", "from solutions import inspection"),
        ("solutions/inspection/pipeline.py", "import torch"),
        ("shared/runtime.py", "def f():\n    from torch import nn"),
        ("edge/agent.py", "import ultralytics"),
        ("data_tools/label.py", "import timm"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, line: str) -> None:
    copy_of_the_rules(tmp_path)
    (tmp_path / file).write_text(line + "\n")
    assert lint_imports(tmp_path).returncode == 1


@pytest.mark.parametrize("file", ["solutions/inspection/training.py", "shared/training/fit.py", "shared/trust/cam.py"])
def test_training_may_import_torch(tmp_path: Path, file: str) -> None:
    copy_of_the_rules(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).parent.joinpath("__init__.py").touch()
    (tmp_path / file).write_text("import torch\nimport ultralytics\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 0, done.stdout


def test_the_run_time_side_imports_without_torch(tmp_path: Path) -> None:
    program = ROOT / "tests" / "run_time_side.py"
    done = subprocess.run(
        [sys.executable, "-P", program, *BLOCKED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])
    assert {"shared.package", "shared.runtime", "shared.records", "solutions.cli"} <= set(imported)


def python_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    return [file for folder in (*FOLDERS, "tests") for file in (ROOT / folder).rglob("*.py")]


def test_no_file_is_longer_than_500_lines() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in python_files()}
    assert len(lengths) > 20
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    """Its docstring is not counted: what explains a function may be as long as it needs. Nor are migrations: each is a
    list of columns that is never edited again."""
    long: dict[str, int] = {}
    for file in python_files():
        if file.parent.name == "versions":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                documented = ast.get_docstring(node, clean=False) is not None
                docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
                length = (node.end_lineno or 0) - node.lineno + 1 - docstring
                if length > 60:
                    long[f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"] = length
    assert long == {}


def test_the_lock_names_no_place() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    for word in ("http:", "https:", "file:", "--index", "--find-links", "+cpu"):
        assert word not in lock
