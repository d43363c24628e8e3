"""`haechi demo`, with fewer and smaller models than a user gets, but every stage real."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import settings, signing
from shared.errors import BadInput, HaechiError
from shared.records import Records
from solutions import cli
from solutions.inspection import demo
from tests.solutions.inspection.served import Server, picture

HAECHI = Path(sys.executable).parent / "haechi"
SMALL = {"GOOD": 12, "BAD": 8, "TEST_GOOD": 8}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in SMALL.items():
        monkeypatch.setattr(demo, name, count)


def run(*arguments: object) -> int:
    return cli.main(["demo", *map(str, arguments)])


@pytest.mark.slow
def test_once_walks_the_whole_path(small, haechi_home, tmp_path, capsys) -> None:
    keys = tmp_path / "keys"
    signing.make_key(keys / "boss.pem")
    trusted = settings.load().keys / "trusted"
    trusted.mkdir(parents=True)
    (keys / "boss.pub").rename(trusted / "boss.pub")  # this machine trusts signed packages only; the demo is its own
    out = tmp_path / "demo.json"
    assert run("--once", "--json", out) == 0
    result = json.loads(out.read_text())
    assert result["separates"] is True
    assert result["metrics"]["image_auroc"] >= demo.LEAST_AUROC
    assert result["package"] == "flange@1"
    assert set(result["kinds"]) == {"good", "scratch", "dent", "stain", "missing_hole"}
    assert result["kinds"]["good"]["parts"] == 8
    assert all(sum(kind["verdicts"].values()) == kind["parts"] for kind in result["kinds"].values())
    assert set(result["seconds"]) == {"parts", "training", "registry", "evaluation", "requests"}
    shown = capsys.readouterr().out
    assert "missing hole" in shown
    assert "image AUROC" in shown

    work = haechi_home / "demo"
    assert (work / "report.html").is_file()
    with Records.open(f"sqlite:///{work / 'records.db'}") as records:
        assert len(records.results(limit=100)) == 16
    assert sorted(path.name for path in haechi_home.iterdir()) == ["demo", "keys"]  # nothing else was touched
    assert settings.load().home == haechi_home


@pytest.mark.slow
def test_a_model_that_does_not_separate_is_a_failure(small, monkeypatch, haechi_home, capsys) -> None:
    monkeypatch.setattr(demo, "LEAST_AUROC", 1.01)
    assert run("--once") == 1
    shown = capsys.readouterr()
    assert "image AUROC" in shown.out, "the table is printed all the same"
    assert shown.err.splitlines()[-1].startswith("error: the demo's model reaches an image AUROC of ")


@pytest.mark.slow
def test_without_once_it_opens_the_console_and_stays(haechi_home, tmp_path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    program = f"""
        import sys
        from solutions import cli
        from solutions.inspection import demo
        for name, count in {SMALL!r}.items():
            setattr(demo, name, count)
        if __name__ == "__main__":
            sys.exit(cli.main(["--quiet", "demo"]))
    """
    (tmp_path / "small_demo.py").write_text(textwrap.dedent(program))
    running = subprocess.Popen(
        [sys.executable, tmp_path / "small_demo.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": str(browser)},
    )
    try:
        deadline = time.monotonic() + 240
        while not (opened.exists() and opened.read_text().endswith("\n")):
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with httpx.Client(trust_env=False, follow_redirects=True, timeout=30) as client:
            page = client.get(opened.read_text().strip())
        assert page.status_code == 200
        assert "/inspection" in page.text
        running.send_signal(signal.SIGINT)
        out, error = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0, error
    assert opened.read_text().strip() in out
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_as_a_user_starts_it(tmp_path) -> None:
    out = tmp_path / "demo.json"
    done = subprocess.run(
        [HAECHI, "demo", "--once", "--json", out], capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["metrics"]["image_auroc"] >= 0.99


# -- what surrounds it -----------------------------------------------------------------------------------------------


def test_only_its_own_folder_is_emptied(tmp_path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(BadInput, match="no demo made it"), demo._claimed(tmp_path / "thesis"):
        pass
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    with demo._claimed(tmp_path / "work"):
        (tmp_path / "work" / "old").mkdir()
        (tmp_path / "work" / "link").symlink_to(outside)
    with demo._claimed(tmp_path / "work"):
        assert [path.name for path in (tmp_path / "work").iterdir()] == [demo._MARK]
    assert (outside / "kept").exists()


def test_two_demos_do_not_share_a_folder(tmp_path) -> None:
    with (
        demo._claimed(tmp_path / "work"),
        pytest.raises(HaechiError, match="another demo is working"),
        demo._claimed(tmp_path / "work"),
    ):
        pass


def test_its_home_is_its_own_and_the_users_comes_back(tmp_path, monkeypatch, haechi_home) -> None:
    monkeypatch.setenv("HAECHI_DATABASE_URL", "postgresql://factory/records")
    monkeypatch.setenv("HAECHI_THREADS", "1")
    settings.load.cache_clear()
    (haechi_home / "cache").mkdir(parents=True)
    (haechi_home / "cache" / "weights").touch()
    with demo._own_home(tmp_path / "work"):
        inside: Any = settings.load()
        assert inside.home == tmp_path / "work"
        assert inside.database_url.startswith("sqlite:")
        assert inside.threads == 1
        assert (inside.cache / "weights").exists()
    assert settings.load().home == haechi_home
    assert settings.load().database_url == "postgresql://factory/records"


def test_a_refusal_of_the_server_is_said_in_its_words(server: Server, tmp_path) -> None:
    good, torn = tmp_path / "good.png", tmp_path / "torn.png"
    good.write_bytes(picture())
    torn.write_bytes(picture()[:500])
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    key = server.key("operator")
    assert demo.post_picture(connection, key, good)["verdict"] == "OK"
    with pytest.raises(HaechiError, match=r"the server answered 400 to torn\.png: .*torn\.png"):
        demo.post_picture(connection, key, torn)
    with pytest.raises(HaechiError, match="the server answered 401"):
        demo.post_picture(connection, "hk_none", good)
    connection.close()
