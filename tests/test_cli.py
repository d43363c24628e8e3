"""The command line as a whole: help that loads nothing heavy, errors in one sentence, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from shared.errors import BadInput, HaechiError, PackageRefused
from solutions import cli

HAECHI = Path(sys.executable).parent / "haechi"
HEAVY = {
    "alembic", "cryptography", "cv2", "fastapi", "nicegui", "numpy", "onnx", "onnxruntime", "PIL", "pydantic", "rich",
    "sqlalchemy", "structlog", "torch", "uvicorn",
}  # fmt: skip
NOUNS = [name for name, (target, _) in cli.NOUNS.items() if target.endswith(":app")]


def loaded_by(*arguments: str) -> set[str]:
    """The heavy libraries that a fresh process has imported once `haechi ARGUMENTS` has run."""
    program = f"""
        import json, sys
        from solutions.cli import main
        code = main({list(arguments)!r})
        assert code == 0, code
        print(json.dumps(sorted(name for name in sys.modules if "." not in name)), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[str]]:
    """Puts a function under the noun `made`; the answer is the arguments that call it."""

    def put(function: Callable[[], object]) -> list[str]:
        app = typer.Typer()
        app.command("go")(function)
        module = types.ModuleType("made_commands")
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "made_commands", module)
        monkeypatch.setitem(cli.NOUNS, "made", ("made_commands:app", "Made by a test."))
        return ["made", "go"]

    return put


def test_help_names_every_noun_and_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, (_, summary) in cli.NOUNS.items():
        assert f"  {name} " in shown
        assert summary in shown
    assert loaded_by("--help") == set()


@pytest.mark.parametrize("noun", NOUNS)
def test_a_nouns_help_lists_its_verbs_and_loads_no_engine(noun: str) -> None:
    assert loaded_by(noun, "--help") & {"cv2", "fastapi", "nicegui", "onnxruntime", "torch", "numpy"} == set()


@pytest.mark.parametrize("name", cli.NOUNS)
def test_every_name_in_the_help_can_be_used(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    assert f"Usage: haechi {name}" in capsys.readouterr().out


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert cli.main(["version"]) == 0
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"haechi {version('haechi')}"] * 2


def test_an_unknown_noun_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspektion", "train"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "'inspection'" in error
    assert len(error.splitlines()) == 1


def test_an_unknown_option_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--jsn"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "--jsn" in error
    assert "haechi version --help" in error


def test_no_arguments_show_the_help_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr()
    assert "Commands:" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (BadInput("parts/a.png is not a picture; save it again."), 2),
        (HaechiError("the disk is full; free some space."), 1),
        (PackageRefused("part.haechi: model.onnx does not match its hash."), 1),
    ],
)
def test_our_errors_are_one_sentence_with_their_code(
    raised: HaechiError, code: int, verb: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise raised

    assert cli.main(verb(fail)) == code
    assert capsys.readouterr().err == f"error: {raised}\n"


def test_a_missing_file_is_named(verb: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> None:
        Path("/no/such/file").read_bytes()

    assert cli.main(verb(read)) == 1
    assert capsys.readouterr().err.startswith("error: /no/such/file: No such file")


def test_a_missing_training_library_says_what_to_install(
    verb: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    def train() -> None:
        import torch  # noqa: F401

    assert cli.main(verb(train)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "training extra" in error
    assert len(error.splitlines()) == 1


def test_our_own_bugs_are_not_hidden(verb: Callable[..., list[str]]) -> None:
    def stumble() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.main(verb(stumble))


def test_a_bad_setting_is_one_sentence(
    verb: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shared import settings

    monkeypatch.setenv("HAECHI_THREADS", "many")
    assert cli.main(verb(settings.load)) == 2
    assert "HAECHI_THREADS" in capsys.readouterr().err


def test_quiet_reaches_the_processes_that_a_command_starts(
    verb: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAECHI_QUIET", "")
    seen: list[str] = []
    assert cli.main(["--quiet", *verb(lambda: seen.append(os.environ["HAECHI_QUIET"]))]) == 0
    assert seen == ["1"]


def test_an_interrupt_ends_quietly_with_130(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(
        textwrap.dedent("""
            import sys, time, typer
            from solutions import cli

            app = typer.Typer()

            @app.command()
            def go() -> None:
                print("ready", flush=True)
                time.sleep(60)

            cli.NOUNS["waiting"] = ("waiting:app", "Waits.")
            if __name__ == "__main__":
                sys.exit(cli.main(["waiting", "go"]))
        """)
    )
    waiting = subprocess.Popen(
        [sys.executable, "waiting.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "ready\n"
    waiting.send_signal(signal.SIGINT)
    _, error = waiting.communicate(timeout=120)
    assert waiting.returncode == 130
    assert error == "error: interrupted.\n"


def test_a_reader_that_leaves_is_no_accident() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([HAECHI, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""
