"""Log lines as programs and people read them: one JSON object each, levels from the settings, no secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from shared import log, settings
from shared.errors import BadInput


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    """The root logger as it was, after the test."""
    root = logging.getLogger()
    handlers, level, installed = list(root.handlers), root.level, log._installed
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    log._installed = installed


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", json_lines=True)
    log.get_logger("shared.somewhere").info("부품 inspected\nand more", verdict="NG", score=0.5)
    (line,) = lines(capsys)
    assert line["event"] == "부품 inspected\nand more"
    assert (line["verdict"], line["score"], line["level"], line["logger"]) == ("NG", 0.5, "info", "shared.somewhere")
    assert line["timestamp"].endswith("Z")


def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", json_lines=True)
    try:
        raise ValueError("password=hunter2 is wrong for postgresql://me:hunter2@host/records")
    except ValueError:
        log.get_logger("x").exception("could not connect")
    (line,) = lines(capsys)
    assert "ValueError" in line["exception"]
    assert "me:hunter2@" not in line["exception"]


def test_libraries_take_the_same_shape(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", json_lines=True)
    logging.getLogger("a.library").info("GET /?key=%s", "abc")
    (line,) = lines(capsys)
    assert (line["logger"], line["event"]) == ("a.library", "GET /?key=***")


def test_a_second_configure_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", json_lines=True)
    log.configure("INFO", json_lines=True)
    log.get_logger("x").info("once")
    assert len(lines(capsys)) == 1


@pytest.mark.parametrize(("level", "shown"), [("DEBUG", 3), ("INFO", 2), ("ERROR", 1)])
def test_the_level_comes_from_the_settings(
    level: str, shown: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HAECHI_LOG_LEVEL", level)
    settings.load.cache_clear()
    log.configure(json_lines=True)
    logger = log.get_logger("x")
    logger.debug("a")
    logger.info("b")
    logger.error("c")
    assert len(lines(capsys)) == shown


def test_an_unknown_level_is_bad_input() -> None:
    with pytest.raises(BadInput, match="LOUD"):
        log.configure("LOUD")


@pytest.mark.parametrize(
    "name", ["key", "api_key", "apiKey", "X-Api-Key", "Authorization", "db_password", "accessToken", "client_secret"]
)
def test_values_under_secret_names_are_masked(name: str) -> None:
    assert log.mask({"outer": [{name: "s3cret"}]}) == {"outer": [{name: log.MASK}]}


@pytest.mark.parametrize(
    "fields", [{"key_id": "ab12"}, {"monkey": "x"}, {"tokenizer": "x"}, {"keyboard": "x"}, {"password": None}]
)
def test_other_values_are_not(fields: dict[str, Any]) -> None:
    assert log.mask(fields) == fields


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        ("postgresql://me:pw@db/records", "postgresql://me:***@db/records"),
        ("GET /?a=1&token=abc&b=2", "GET /?a=1&token=***&b=2"),
        ("http://127.0.0.1:8000/v2", "http://127.0.0.1:8000/v2"),
    ],
)
def test_secrets_inside_text_are_masked(text: str, masked: str) -> None:
    assert log.mask(text) == masked


def test_the_first_message_installs_the_handler_and_stdout_stays_clean() -> None:
    program = """
        import sys
        from shared.log import get_logger
        logger = get_logger("x")
        logger.info("hello", token="abc")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    assert json.loads(done.stderr)["token"] == "***"


def test_a_terminal_gets_readable_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", json_lines=False)
    log.get_logger("x").info("hello", token="abc", n=3)
    shown = capsys.readouterr().err
    assert "hello" in shown
    assert "abc" not in shown
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown)
