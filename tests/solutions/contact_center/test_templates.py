"""The templates keep their word: each is trained by the command, and all of its conversations go as expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from solutions.cli import main
from solutions.contact_center.folder_commands import templates

ALL = [(name, language) for name, languages in templates().items() for language in languages]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "language"), ALL)
def test_a_new_bot_passes_its_conversation_tests(name: str, language: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="training needs the extra")
    folder, package, report = tmp_path / "acme", tmp_path / "acme.bot", tmp_path / "tests.json"
    assert main(["bot", "new", str(folder), "--template", name, "--lang", language]) == 0
    assert main(["bot", "train", str(folder), "-o", str(package), "--recipe", "light"]) == 0
    code = main(["bot", "test", str(folder), "--package", str(package), "--json", str(report)])
    said = json.loads(report.read_text("utf-8"))
    failed = {one["test"]: one["failures"] for one in said["outcomes"] if not one["passed"]}
    assert (code, failed) == (0, {})
    assert said["coverage"]["missing_flows"] == said["coverage"]["missing_steps"] == []
