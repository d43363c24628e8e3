"""`haechi bot evaluate`: its figures against small cases worked by hand, and the bars on real data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from solutions.cli import main
from solutions.contact_center import perturbations
from solutions.contact_center.evaluation import expected_calibration_error, macro_f1, oos_recall, retrieval
from solutions.contact_center.tables import read

DATA = Path(__file__).parents[3] / ".." / "shared" / "data" / "contact_center"
CLINC, PARAKQC = DATA / "clinc150", DATA / "parakqc" / "paraKQC_v1.txt"
KEYS = {
    "accuracy", "macro_f1", "oos_auroc", "oos_recall_at_in_scope_0.90", "ece", "latency_ms_p50", "latency_ms_p99",
    "train_seconds", "package_bytes",
}  # fmt: skip
needs_clinc = pytest.mark.skipif(not (CLINC / "data_full.json").is_file(), reason="CLINC150 is not here")
needs_parakqc = pytest.mark.skipif(not PARAKQC.is_file(), reason="paraKQC is not here")


def written(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "intent"), *rows])
    return path


def clinc(folder: Path, intents: int, examples: int | None) -> tuple[Path, Path]:
    """Tables to train on, without anything out of scope, and to judge by, with it."""
    data = json.loads((CLINC / "data_full.json").read_text(encoding="utf-8"))
    names = sorted({name for _, name in data["train"]})[:intents]
    count = dict.fromkeys(names, 0)
    train = []
    for text, name in data["train"]:
        if name in count and (examples is None or count[name] < examples):
            count[name] += 1
            train.append((text, name))
    test = [(text, name) for text, name in data["test"] if name in count]
    outside = [(text, "oos") for text, _ in data["oos_test"]]
    return written(folder / "train.csv", train), written(folder / "test.csv", test + outside[: 2 * len(test)])


def figures(folder: Path, *words: str) -> dict[str, float]:
    out = folder / "figures.json"
    assert main(["bot", "evaluate", *words, "--json", str(out)]) == 0
    found: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return found


@needs_clinc
def test_a_table_is_trained_on_and_judged(tmp_path: Path) -> None:
    train, test = clinc(tmp_path, intents=12, examples=20)
    found = figures(tmp_path, "--train", str(train), str(test), "--recipe", "light", "--robustness")
    assert found.keys() == KEYS | {"robustness"}
    assert found["accuracy"] > 0.9
    assert found["oos_auroc"] > 0.9
    assert 0 <= found["ece"] < 0.2
    assert 0 < found["latency_ms_p50"] <= found["latency_ms_p99"]
    rows = {row["perturbation"]: row["accuracy"] for row in found["robustness"]}  # type: ignore[attr-defined]
    assert rows["as it is"] == pytest.approx(found["accuracy"])
    assert rows["full-width forms"] == rows["capitals"] == rows["as it is"]


def test_what_cannot_be_computed_is_null(tmp_path: Path) -> None:
    rows = [(f"{verb} the {thing}", verb) for verb in ("open", "close", "paint") for thing in ("door", "box", "gate")]
    train = written(tmp_path / "train.csv", rows)
    inside = figures(tmp_path, "--train", str(train), str(written(tmp_path / "in.csv", rows)), "--recipe", "light")
    assert inside["oos_auroc"] is None
    assert inside["oos_recall_at_in_scope_0.90"] is None
    assert inside["accuracy"] == 1.0
    nothing = written(tmp_path / "out.csv", [("what is love", "oos")])
    outside = figures(tmp_path, "--train", str(train), str(nothing), "--recipe", "light")
    assert outside["accuracy"] is None
    assert outside["ece"] is None


def test_figures_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    assert expected_calibration_error(confidence, np.array([True, True, True, False])) == pytest.approx(0.05)
    assert macro_f1(np.array(["a", "a", "b"]), np.array(["a", "b", "b"])) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert oos_recall(np.arange(10.0), np.array([-1.0, 0.5, 5.0])) == pytest.approx(2 / 3)
    assert oos_recall(np.arange(10.0), np.zeros(0)) is None


def test_data_full_json_is_read_by_split(tmp_path: Path) -> None:
    content = {"train": [["hello", "greet"]], "oos_train": [["why", "oos"]], "test": [["hey", "greet"]], "oos_test": []}
    path = tmp_path / "data_full.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read(path, "train").intents == ["greet", "oos"]
    assert read(path, "test").texts == ["hey"]


def test_perturbations_change_form_and_not_more_than_they_say() -> None:
    text = "내일 오후 예약을 취소해 주세요"
    changes = perturbations.of([text], 0)
    assert changes["no spaces"](text) == "내일오후예약을취소해주세요"
    assert changes["English words"](text) == "내일 오후 booking을 cancel해 주세요"
    slipped = changes["jamo slip"](text)
    assert sum(a != b for a, b in zip(slipped, text, strict=True)) == 1
    assert changes["jamo slip"](text) == slipped, "the same text is distorted in the same way"
    assert changes["wrong spaces"](text).replace(" ", "") == text.replace(" ", "")
    assert perturbations.of(["hello there"], 0)["full-width forms"]("Hi 5") == "Ｈｉ ５"


def test_retrieval_by_hand() -> None:
    texts = ["open the door", "please open the door", "what time is it", "what time is it now"]
    found = retrieval(texts, ["a", "a", "b", "b"])
    assert found == {"same_group_at_1": 1.0, "recall_at_1": 1.0, "recall_at_1_no_spaces": 1.0}


@needs_parakqc
def test_korean_paraphrases_find_each_other(tmp_path: Path) -> None:
    lines = PARAKQC.read_text(encoding="utf-8").splitlines()[:600]
    (tmp_path / "paraKQC_part.txt").write_text("\n".join(lines), encoding="utf-8")
    found = figures(tmp_path, "--retrieval", str(tmp_path / "paraKQC_part.txt"))
    assert found["same_group_at_1"] > 0.9
    assert found["recall_at_1_no_spaces"] > 0.8


@needs_clinc
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("recipe", "accuracy", "auroc"), [("auto", 0.965, 0.982), ("light", 0.93, 0.955)])
def test_the_bars_on_clinc150(tmp_path: Path, recipe: str, accuracy: float, auroc: float) -> None:
    train, test = clinc(tmp_path, intents=150, examples=None)
    found = figures(tmp_path, "--train", str(train), str(test), "--recipe", recipe)
    assert found["accuracy"] >= accuracy
    assert found["oos_auroc"] >= auroc


@needs_parakqc
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bars_of_retrieval(tmp_path: Path) -> None:
    pytest.importorskip("kiwipiepy", reason="the extra `korean` is not installed")
    found = figures(tmp_path, "--retrieval", str(PARAKQC))
    assert found["same_group_at_1"] >= 0.93
    assert found["recall_at_1"] >= 0.87
    assert found["recall_at_1_no_spaces"] >= 0.862
