"""`haechi bot train`: a folder or a table becomes a package."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from shared import runtime
from shared.errors import BadInput
from shared.package import open_package
from shared.text.features import Features
from shared.training import blend, linear
from solutions.cli import main
from solutions.contact_center.bot_models import Costs
from solutions.contact_center.config import Model
from solutions.contact_center.tables import Utterances, read
from solutions.contact_center.thresholds import Judged, choose
from solutions.contact_center.training import from_table, train
from solutions.contact_center.understanding import Understander
from tests.solutions.contact_center.folders import made

WISHES = {
    "order": ["where is my parcel", "track my parcel", "when will it arrive", "has my order been shipped"],
    "refund": ["i want my money back", "refund me please", "how do i get a refund", "give the money back"],
    "hours": ["when are you open", "what are your opening hours", "are you open on sunday", "when do you close"],
    "card": ["my card was declined", "the card does not work", "why was my card refused", "card payment failed"],
    "name": ["change my name", "i married and have a new name", "my surname is wrong", "correct my name please"],
    "password": ["i forgot my password", "reset my password", "i cannot log in", "new password please"],
}


def table(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "intent"), *rows])
    return path


@pytest.fixture(scope="module")
def wishes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(text, intent) for intent, texts in WISHES.items() for text in texts]
    return table(tmp_path_factory.mktemp("table") / "wishes.csv", [*rows, ("how tall is the eiffel tower", "oos")])


def test_a_table_becomes_a_package_that_passes_its_self_test(wishes: Path, tmp_path: Path) -> None:
    package, figures = tmp_path / "package", tmp_path / "figures.json"
    command = ["bot", "train", "--train", str(wishes), "-o", str(package), "--recipe", "light", "--json", str(figures)]
    assert main(command) == 0
    opened = open_package(package)
    assert opened.manifest.labels == sorted(WISHES)
    assert set(opened.manifest.thresholds) == {"answer", "confirm", "scope"}
    assert opened.manifest.lineage.data_fingerprint == read(wishes, "train").fingerprint
    assert "report.html" in opened.assets
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert told["recipe"] == "light"
    assert told["package_bytes"] == sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    answer = runtime.load(opened, provider="cpu", threads=1).run(dict(opened.golden.inputs))
    assert np.allclose(answer["probabilities"].sum(axis=1), 1, atol=1e-4)


def test_the_same_seed_gives_the_same_model(wishes: Path, tmp_path: Path) -> None:
    material = from_table(read(wishes, "train"))
    models = [
        open_package(train(material, tmp_path / name, model=Model(recipe="light"), seed=3).path).model
        for name in ("one", "two")
    ]
    assert models[0] == models[1]


def test_a_folder_becomes_a_package_with_its_questions_and_patterns(tmp_path: Path) -> None:
    folder = made(tmp_path, {"bot.yaml": "name: cafe\nlanguages: [en]\nmodel: {recipe: light}\n"})
    assert main(["bot", "train", str(folder), "-o", str(tmp_path / "package")]) == 0
    understander = Understander.load(tmp_path / "package")
    assert understander.bot is not None
    assert understander.bot.settings.name == "cafe"
    assert {"opening", "faq:wifi", "affirm", "cancel", "agent"} <= set(understander.classifier.labels)


def test_mistakes_are_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lonely = table(tmp_path / "lonely.csv", [("hello", "greet"), ("hi", "greet")])
    assert main(["bot", "train", "--train", str(lonely), "-o", str(tmp_path / "package")]) == 2
    assert "lonely.csv has fewer than two intents" in capsys.readouterr().err
    assert not (tmp_path / "package").exists()
    (tmp_path / "strange.csv").write_text("utterance,goal\nhello,greet\n", encoding="utf-8")
    with pytest.raises(BadInput, match="must have the columns text and intent"):
        read(tmp_path / "strange.csv", "train")
    with pytest.raises(BadInput, match=r"line 3 has no intent"):
        read(table(tmp_path / "gap.csv", [("hello", "greet"), ("what", " ")]), "train")


def test_intents_of_a_single_example_are_learned_too(tmp_path: Path) -> None:
    utterances = Utterances(Path("few.csv"), ["cancel my order", "talk to a person"], ["cancel", "agent"])
    trained = train(from_table(utterances), tmp_path / "package", model=Model(recipe="light"))
    answer = Understander.load(trained.path).classifier.ask("please cancel my order")
    assert trained.manifest.labels[int(answer.probabilities.argmax())] == "cancel"


def judged(outside: int) -> Judged:
    """Confidences that are what they say: right with the probability they name."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0, 1, 4000)
    right = generator.uniform(0, 1, 4000) < confidence
    inside = np.ones(4000, dtype=bool)
    inside[:outside] = False
    right[:outside] = False
    scope = np.where(inside, generator.uniform(0.4, 1, 4000), generator.uniform(0, 0.6, 4000))
    return Judged(confidence, right, scope, inside)


def test_dearer_mistakes_raise_the_threshold_and_the_price_is_where_theory_has_it() -> None:
    cheap = choose(judged(400), Costs(wrong_answer=4, clarification=1, hand_over=4)).thresholds
    dear = choose(judged(400), Costs(wrong_answer=50, clarification=1, hand_over=4)).thresholds
    assert cheap["answer"].value < dear["answer"].value
    # A confirmation costs 1 + 3 (1 - p), a wrong answer 10 (1 - p): equal at p = 6/7.
    theory = choose(judged(0), Costs(wrong_answer=10, clarification=1, hand_over=4)).thresholds
    assert theory["answer"].value == pytest.approx(6 / 7, abs=0.06)
    assert theory["confirm"].value == pytest.approx(1 / 3, abs=0.12)


def test_the_curve_is_of_the_chosen_thresholds() -> None:
    chosen = choose(judged(400), Costs())
    least = min(point.cost for point in chosen.curve)
    assert chosen.thresholds["answer"].details["cost_per_message"] == pytest.approx(least, abs=0.02)
    assert all(a.answered >= b.answered for a, b in zip(chosen.curve, chosen.curve[1:], strict=False))


def test_few_messages_do_not_make_the_bot_ask_more_than_they_prove() -> None:
    few, many = judged(0), judged(0)
    few = Judged(*(getattr(few, name)[::20] for name in ("confidence", "right", "scope", "inside")))
    chosen = [choose(messages, Costs()).thresholds["answer"] for messages in (few, many)]
    assert chosen[0].value < chosen[1].value  # 200 messages prove less than 4,000
    for threshold, messages in zip(chosen, (few, many), strict=True):
        curve = choose(messages, Costs()).curve
        least = min(point.cost for point in curve)
        cost = threshold.details["cost_per_message"]
        assert isinstance(cost, float)
        assert least - 0.001 <= cost <= least + 0.1


def test_cross_validation_asks_of_each_sentence_a_model_that_has_not_seen_it() -> None:
    texts = [text for group in WISHES.values() for text in group]
    targets = np.repeat(np.arange(len(WISHES)), 4)
    seen = blend.Seen(linear.counted(texts, Features(jamo=(0, 0))), None)
    held = blend.cross_validate(seen, targets, None, 4, 0)
    assert sorted(held.rows.tolist()) == list(range(len(texts)))
    unknown = held.targets < 0
    assert unknown.any(), "some classes stand for what is out of scope"
    absent = held.logits[0][unknown, targets[held.rows[unknown]]]
    assert (absent < -1000).all(), "a class that was left out cannot be answered"
