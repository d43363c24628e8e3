"""`haechi package` and `haechi registry` as a person meets them: output, files, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.package import open_package
from solutions.cli import main
from tests.shared.packages import make_package

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one command in an empty folder and gives its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def one(*arguments: object) -> tuple[int, str, str]:
        code = main([str(each) for each in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return one


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text("utf-8"))


@pytest.mark.parametrize(
    "command",
    [
        *[f"package {verb}" for verb in ("show", "verify", "sign", "keygen", "trust")],
        *[f"registry {verb}" for verb in ("list", "add", "promote", "alias", "rollback", "history")],
    ],
)
def test_every_verb_explains_itself(run: Run, command: str) -> None:
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert "Usage: haechi" in out
    assert len(out.split("\n\n")[1].strip()) > 40, "a sentence on what it does"


def test_show(run: Run) -> None:
    path = make_package(Path("p"), metrics={"image_auroc": 0.98765}, assets={"a.txt": b"1"})
    code, out, _ = run("package", "show", path, "--json", "out.json")
    assert code == 0
    opened = open_package(path)
    for shown in (
        "tiny 1.0.0",
        "inspection",
        opened.fingerprint,
        "unsigned",
        "[-1, -1, -1, 3]",
        "0.9877",
        "headline",
        "review",
        "parts 2",
        "Apache-2.0",
        "assets/a.txt",
    ):
        assert shown in out
    written = read("out.json")
    assert written["manifest"] == opened.manifest.model_dump(mode="json")
    assert written["bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_show_lets_no_package_steer_the_terminal(run: Run) -> None:
    path = make_package(Path("p"))
    raw = read("p/manifest.json")
    raw["description"] = "red: \x1b[31m [bold]markup[/bold]"
    from shared import package

    raw["checksum"] = package._checksum(raw)
    (path / "manifest.json").write_bytes(package._encode(raw))
    code, out, _ = run("package", "show", path)
    assert code == 0
    assert "\x1b" not in out
    assert "?[31m [bold]markup[/bold]" in out


def test_verify_sign_and_trust(run: Run) -> None:
    path = make_package(Path("p"))
    code, out, _ = run("package", "verify", path, "--json", "v.json")
    assert code == 0
    assert re.search(r"p is sound: tiny 1\.0\.0, unsigned, self-test passed on \w+ExecutionProvider\.", out)
    assert read("v.json") == {
        "package": "p",
        "verified": True,
        "fingerprint": open_package(path).fingerprint,
        "signature": "unsigned",
        "signed_by": None,
        "self_test_provider": "CPUExecutionProvider",
    }
    code, out, _ = run("package", "keygen", "keys/factory.pem", "--trust")
    key_id = re.search(r"key id +([0-9a-f]{16})", out)
    assert key_id
    assert "only packages signed by a trusted key load now" in out
    code, out, err = run("package", "verify", path, "--json", "v.json")
    assert (code, out) == (1, "")
    assert err.startswith("error: p is refused: it is not signed")
    assert read("v.json") == {"package": "p", "verified": False, "reason": err.removeprefix("error: ").strip()}
    assert run("package", "sign", path, "--key", "keys/factory.pem")[:2] == (
        0,
        f"p is signed with key {key_id[1]}.\n",
    )
    assert f"signed by trusted key {key_id[1]}" in run("package", "verify", path)[1]
    assert f"signed by trusted key {key_id[1]}" in run("package", "show", path)[1]


def test_verify_with_given_keys(run: Run) -> None:
    run("package", "keygen", "a.pem")
    run("package", "keygen", "b.pem")
    make_package(Path("p.zip"), signing_key=Path("a.pem"))
    assert run("package", "verify", "p.zip", "--key", "a.pub")[0] == 0
    code, _, err = run("package", "verify", "p.zip", "--key", "b.pub")
    assert code == 1
    assert "signed by the unknown key" in err
    assert "which is not trusted here" in run("package", "show", "p.zip")[1]
    run("package", "trust", "b.pub")
    assert run("package", "verify", "p.zip")[0] == 1
    assert run("package", "trust", "a.pub")[0] == 0
    assert run("package", "verify", "p.zip")[0] == 0


def test_verify_runs_the_self_test(run: Run) -> None:
    make_package(Path("p"), wrong_golden=True)
    code, _, err = run("package", "verify", "p")
    assert code == 1
    assert "fails its self-test" in err
    code, out, _ = run("package", "verify", "p", "--no-self-test")
    assert code == 0
    assert "self-test skipped" in out


def test_bad_input_is_exit_code_2(run: Run) -> None:
    make_package(Path("p"))
    assert run("package", "show", "none")[0] == 2
    assert run("package", "sign", "p", "--key", "none.pem")[0] == 2
    run("package", "keygen", "k.pem")
    code, _, err = run("package", "keygen", "k.pem")
    assert code == 2
    assert err == "error: k.pem exists already and keys are never overwritten; choose another name.\n"
    assert run("package", "sign", "p")[0] == 2
    assert run("registry", "promote", "p@1")[0] == 2


def test_registry_from_empty_to_rollback(run: Run) -> None:
    assert "is empty; add a package with" in run("registry", "list")[1]
    make_package(Path("one"), name="bolts")
    make_package(Path("two.zip"), name="bolts", gain=0.5)
    assert run("registry", "add", "one", "--alias", "champion")[1] == "one is stored as bolts@1 (champion).\n"
    code, out, _ = run("registry", "add", "two.zip", "--json", "add.json")
    assert out == "two.zip is stored as bolts@2.\nTo let it serve: haechi registry promote bolts@2\n"
    assert read("add.json")["reference"] == "bolts@2"
    assert run("registry", "add", "one")[1] == "one is already stored as bolts@1 (champion).\n"
    assert run("registry", "alias", "bolts@2", "challenger")[1] == "challenger of bolts is now version 2.\n"
    code, out, _ = run("registry", "promote", "bolts@challenger", "--json", "promote.json")
    assert out == "champion of bolts is now version 2, was 1.\n"
    assert read("promote.json") == {"name": "bolts", "alias": "champion", "before": 1, "after": 2}
    assert run("registry", "promote", "bolts@2")[1] == "champion of bolts was version 2 already.\n"
    code, out, _ = run("registry", "list", "--json", "list.json")
    assert re.search(r"bolts@2 +champion +1\.0\.0 +inspection +image_auroc 1 ", out)
    assert [(each["reference"], each["aliases"]) for each in read("list.json")] == [
        ("bolts@1", []),
        ("bolts@2", ["champion"]),
    ]
    assert "bolts 1.0.0" in run("package", "show", "bolts@champion")[1]
    assert run("registry", "rollback", "bolts")[1] == "champion of bolts is now version 1, was 2.\n"
    code, out, err = run("registry", "rollback", "bolts")
    assert (code, out) == (2, "")
    assert err.startswith("error: package bolts has no earlier champion")
    code, out, _ = run("registry", "history", "bolts", "--json", "history.json")
    assert [each["action"] for each in read("history.json")] == [
        "add",
        "promote",
        "add",
        "alias",
        "promote",
        "rollback",
    ]
    assert len(out.splitlines()) == 6
    assert run("registry", "alias", "bolts@2", "challenger")[0] == 0
    assert "is removed; it was version 2" in run("registry", "alias", "bolts", "challenger", "--remove")[1]


def test_promote_wants_a_version(run: Run) -> None:
    code, _, err = run("registry", "promote", "bolts")
    assert code == 2
    assert "say which version of bolts to promote, such as bolts@3" in err


def test_registry_elsewhere(run: Run, haechi_home: Path) -> None:
    make_package(Path("one"))
    assert run("registry", "add", "one", "--registry", "store")[0] == 0
    assert Path("store/packages/tiny/versions/1/model.onnx").is_file()
    assert not haechi_home.exists()


def test_refused_package_is_exit_code_1(run: Run) -> None:
    make_package(Path("wrong"), wrong_golden=True)
    code, _, err = run("registry", "add", "wrong")
    assert code == 1
    assert err.startswith("error: wrong fails its self-test")
    assert err.count("\n") == 1
