"""`haechi bot new`, `check` and `schema`, as a user meets them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from solutions.cli import main
from solutions.contact_center.config import SECTIONS, load
from solutions.contact_center.folder_commands import templates

TEMPLATES = Path(__file__).parents[3] / "solutions" / "contact_center" / "templates"
ALL = [(name, language) for name, languages in templates().items() for language in languages]


@pytest.fixture
def bot(tmp_path: Path) -> Path:
    folder = tmp_path / "my-bot"
    assert main(["bot", "new", str(folder), "--template", "shop", "--lang", "en"]) == 0
    return folder


def write(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


@pytest.mark.parametrize(("name", "language"), ALL)
def test_new_makes_a_bot_without_mistakes_or_notes(
    name: str, language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "acme-1"
    report = tmp_path / "new.json"
    assert main(["bot", "new", str(folder), "-t", name, "-l", language, "--json", str(report)]) == 0
    assert main(["bot", "check", str(folder), "--strict"]) == 0
    assert "note:" not in capsys.readouterr().out
    made = load(folder)
    assert made.settings.name == "acme-1"
    assert made.settings.languages == [language]
    said = json.loads(report.read_text("utf-8"))
    assert (said["template"], said["intents"], said["tests"]) == (name, len(made.intents), len(made.tests))
    assert "Haechi" in (folder / "README.md").read_text("utf-8")


def test_new_says_what_it_can_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "a")
    assert main(["bot", "new", place, "--template", "telecon"]) == 2
    assert "did you mean telecom?" in capsys.readouterr().err
    assert main(["bot", "new", place, "--lang", "fr"]) == 2
    assert "telecom is there in en, ko" in capsys.readouterr().err
    assert main(["bot", "new", str(tmp_path / "My Bot")]) == 2
    assert "a bot's name is made of a-z, 0-9 and -" in capsys.readouterr().err
    assert list(tmp_path.glob("[aA]*")) == []


def test_new_leaves_what_is_there(bot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in bot.iterdir())
    assert main(["bot", "new", str(bot)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert sorted(path.name for path in bot.iterdir()) == before


def test_check_tells_what_is_there(bot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bot", "check", str(bot), "--json", str(tmp_path / "c.json")]) == 0
    out = capsys.readouterr().out
    made = load(bot)
    assert re.search(rf"my-bot \(en\), fingerprint {made.fingerprint[:12]}", out)
    assert re.search(rf"intents +{len(made.intents)} ", out)
    report = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert report["ok"] is True
    assert report["mistakes"] == report["notes"] == []
    assert report["fingerprint"] == made.fingerprint
    assert report["questions"] == sum(len(faq.questions) for faq in made.faqs.values())


def test_check_lists_every_mistake_and_fails(bot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(bot / "flows" / "flows.yaml", "say: order_preparing", "say: order_preparin")
    write(bot / "responses" / "responses.yaml", "{order} is being packed", "{ordr} is being packed")
    write(bot / "intents" / "intents.yaml", "[broken](return_reason=faulty)", "[broken](return_reason=fauly)")
    assert main(["bot", "check", str(bot), "--json", str(tmp_path / "c.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    report = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert report["ok"] is False
    assert "fingerprint" not in report
    assert len(lines) == len(report["mistakes"]) == 3
    assert [Path(one["file"]).name for one in report["mistakes"]] == ["flows.yaml", "intents.yaml", "responses.yaml"]
    for line, one in zip(lines, report["mistakes"], strict=True):
        assert f"{one['file']}:{one['line']}: " in line
        assert "did you mean" in line


NOTES: dict[str, tuple[str, str, str, str]] = {
    "few examples": (
        "intents/intents.yaml",
        "    - do you gift wrap\n",
        "    - do you gift wrap\n- intent: other\n  response: intent_gift_wrap\n  examples:\n",
        "gift_wrap: has 1 examples in en",
    ),
    "the same words twice": (
        "intents/intents.yaml",
        "    - is this in stock\n",
        "    - is this in stock\n    - Track my parcel\n",
        "check_stock: 'Track my parcel' is in track_order (intents) too",
    ),
    "a FAQ asked in few ways": (
        "faq/faq.yaml",
        "    - When is delivery free?\n    - Do islands cost more?\n    - Delivery charges\n",
        "",
        "shipping_fee: is asked in 1 ways in en",
    ),
    "a label from nowhere": (
        "flows/flows.yaml",
        "- {say: order_preparing}",
        "- {label: x, say: order_preparing}",
        "label x",
    ),
    "an unused action": (
        "actions/demo.yaml",
        "- {action: cancel_order,",
        "- {action: other, function: demo_receipt}\n- {action: cancel_order,",
        "other: is run by no flow",
    ),
    "an unused response": (
        "responses/responses.yaml",
        "- response: ask_order",
        "- {response: spare, text: x}\n- response: ask_order",
        "spare: is said nowhere",
    ),
    "an open line": (
        "actions/demo.yaml",
        "- {action: cancel_order, function: demo_receipt}",
        "- {action: cancel_order, http: {url: 'http://shop.example/cancel', allow: [shop.example]}}",
        "cancel_order: is called without encryption",
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_check_notes_what_could_be_better(case: str, bot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, old, new, expected = NOTES[case]
    write(bot / file, old, new)
    capsys.readouterr()
    assert main(["bot", "check", str(bot)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1, notes
    assert expected in notes[0]
    assert re.match(rf"note: {re.escape(str(bot))}/[a-z/]+\.yaml:\d+: ", notes[0])
    assert main(["bot", "check", str(bot), "--strict"]) == 2


def test_an_untested_flow_and_missing_oos_are_noted(bot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bot / "tests" / "tests.yaml").unlink()
    write(bot / "intents" / "intents.yaml", "- intent: oos", "- intent: other\n  response: intent_gift_wrap")
    capsys.readouterr()
    assert main(["bot", "check", str(bot)]) == 0
    out = capsys.readouterr().out
    assert out.count("has no conversation test") == len(load(bot).flows)
    assert "no intent oos" in out


# --- schemas ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("schema")
    assert main(["bot", "schema", "-o", str(folder)]) == 0
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


def test_there_is_a_schema_for_every_kind_of_file(schemas: dict[str, Any]) -> None:
    assert set(schemas) == {"bot", *SECTIONS}
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("folder", sorted(TEMPLATES.glob("*-*")), ids=lambda path: path.name)
def test_editors_find_no_fault_with_the_templates(folder: Path, schemas: dict[str, Any]) -> None:
    files = sorted(folder.rglob("*.yaml"))
    assert files
    for path in files:
        section = "bot" if path.name == "bot.yaml" else path.parent.name
        place = "schema" if section == "bot" else "../schema"
        text = path.read_text("utf-8")
        assert text.startswith(f"# yaml-language-server: $schema={place}/{section}.json\n"), path
        value = yaml.load(text, Loader=yaml.BaseLoader) if section == "bot" else yaml.safe_load(text)
        if section != "bot":
            jsonschema.validate(value, schemas[section])


WRONG = [
    ("intents", [{"intent": "a", "exmples": ["b"]}]),
    ("intents", {"intent": "a"}),
    ("intents", [{"intent": "A b"}]),
    ("faq", [{"faq": "a", "questions": ["b"]}]),
    ("flows", [{"flow": "a", "steps": [{"colect": "b"}]}]),
    ("flows", [{"flow": "a", "steps": [{"collect": "b", "validate": {"mn": 1}}]}]),
    ("responses", [{"response": "a", "english": "b"}]),
    ("tests", [{"test": "a", "steps": [{"user": "b", "expect": {"rung": "shout"}}]}]),
    ("bot", {"title": "a"}),
]


@pytest.mark.parametrize(("section", "value"), WRONG)
def test_editors_underline_mistakes(section: str, value: Any, schemas: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schemas[section])


def test_schemas_are_printed_too(schemas: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bot", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schemas


def test_fields_are_explained_in_the_editor(schemas: dict[str, Any]) -> None:
    policies = schemas["bot"]["$defs"]["Policies"]["properties"]
    assert "hands over" in policies["max_clarifications"]["description"]
    collect = schemas["flows"]["$defs"]["CollectStep"]["properties"]
    assert {"collect", "entity", "ask", "help", "validate", "optional"} <= set(collect)


def test_help_is_short_and_whole() -> None:
    for verb, words in (("new", "telecom, bank or shop"), ("check", "exit code 2"), ("schema", "yaml-language-server")):
        command = [sys.executable, "-m", "solutions.cli", "bot", verb, "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert words in " ".join(shown.stdout.split())
