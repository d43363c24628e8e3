"""The README keeps its word: the blocks marked `<!-- run -->` run, in order, in one new folder and home."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARKED = re.compile(r"^<!-- run -->\n```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = "8000"
SECONDS = 300


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run_block(language: str, text: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of one block. What it left running is ended with it."""
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    log = folder / "block.log"
    with log.open("w") as output:
        block = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = block.wait(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(block.pid, signal.SIGKILL)
            block.wait()
    return code, log.read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.timeout(4 * SECONDS)
def test_the_marked_blocks_run(tmp_path: Path, haechi_home: Path) -> None:
    blocks = MARKED.findall(README)
    assert {language for language, _ in blocks} == {"sh", "python"}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HAECHI_HOME": str(haechi_home),
        "HAECHI_QUIET": "1",
        "PYTHONSAFEPATH": "1",  # the installed packages, not the folder it happens to run in
    }
    folder = tmp_path / "work"
    folder.mkdir()
    port = free_port()
    said = ""
    for language, text in blocks:
        code, output = run_block(language, text.replace(PORT, port), folder, environment)
        assert code == 0, f"{text}\nended with {code}:\n{output}"
        said += output
    assert re.search(r"\.png (OK|REVIEW|NG) \d", said), "the Python block printed no decision"
    assert '"verdict":' in said, "the server answered no decision"
    assert "nv_inference" in said, "the server counted nothing"
    assert (folder / "decisions.json").is_file()


def test_every_marker_belongs_to_a_block_that_is_run() -> None:
    assert README.count("<!-- run -->") == len(MARKED.findall(README)) >= 4


def test_links_and_commands_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b`", README)) <= targets
