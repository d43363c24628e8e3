"""Labelled sentences from the layouts that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import BadInput
from shared.text.labelled import read
from tests.shared.text.sentences import make_intents

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "contact_center"


def test_json_with_splits(tmp_path: Path) -> None:
    found = read(make_intents(tmp_path / "intents.json"))
    assert found.labels == ["balance", "block", "opening", "비밀번호", "해지"]
    assert (len(found.train), len(found.val), len(found.test)) == (120, 40, 40)
    assert found.outside == {"test": ["tell me a joke", "오늘 날씨 어때"]}
    assert found.held_out is found.val
    assert read(tmp_path).train == found.train  # a folder with one file that can be read


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_columns_and_splits(tmp_path: Path, kind: str) -> None:
    rows = [("hi, there", "greet", "train"), ("bye", "leave", "train"), ("hey", "greet", "dev"), ("???", "none", "oos")]
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"q": q, "intent": i, "split": s}) for q, i, s in rows))
    else:
        mark = "," if kind == "csv" else "\t"
        lines = [mark.join(["q", "intent", "split"]), *(mark.join([f'"{q}"', i, s]) for q, i, s in rows)]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    found = read(path, text="q", label="intent")
    assert [each.text for each in found.train] == ["hi, there", "bye"]
    assert [(each.text, found.labels[each.label]) for each in found.val] == [("hey", "greet")]
    assert found.outside == {"test": ["???"]}


def test_a_folder_of_splits(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name} a,x\n{name} b,y\n")
    found = read(tmp_path)
    assert [each.text for each in found.val] == ["valid a", "valid b"]


def test_some_of_each_label_are_held_out_where_there_are_no_splits(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(f"{label} {i},{label}\n" for label in "abc" for i in range(10)))
    found = read(path, hold_out=0.2, seed=1)
    assert (len(found.train), len(found.val)) == (24, 6)
    assert sorted(each.label for each in found.val) == [0, 0, 1, 1, 2, 2]
    assert read(path, hold_out=0.2, seed=1).val == found.val
    assert read(path, hold_out=0.2, seed=2).val != found.val
    assert read(path, seed=2).fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "text,label\nhi,\n", r"line 2 has no 'label'"),
        ("a.csv", "question,label\nhi,x\n", r"line 2 has no 'text'; name the columns"),
        ("a.csv", "text,label,split\nhi,x,trian\n", r"line 2: split 'trian' is not one of train, val, test"),
        ("a.csv", "text,label\n", r"holds no labelled sentences"),
        ("a.jsonl", '{"text": "hi", "label": "x"}\n[]\n', r"line 2 must be an object"),
        ("a.jsonl", "{", r"line 1 is not JSON"),
        ("a.json", "[]", r"must be an object of splits"),
        ("a.json", '{"train": [["hi"]]}', r"item 1 of train must be \[text, label\]"),
        ("a.xml", "<a/>", r"is not one of \.json"),
        ("paraKQC.txt", "0\thi\n", r"line 1 must have three columns"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=reason):
        read(tmp_path / name)


def test_labels_must_be_the_packages(tmp_path: Path) -> None:
    path = make_intents(tmp_path / "intents.json")
    with pytest.raises(BadInput, match="has the label 'balance', which the package does not know"):
        read(path, known=["block"])
    known = ["해지", "비밀번호", "opening", "block", "balance", "more"]
    assert read(path, known=known).labels == known
    with pytest.raises(BadInput, match="is not there"):
        read(tmp_path / "none.csv")
    with pytest.raises(BadInput, match=r"no train\.csv"):
        read(tmp_path / "..", known=known)


@pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not here")
def test_public_data_sets() -> None:
    clinc = read(DATA / "clinc150")
    assert (len(clinc.labels), len(clinc.train), len(clinc.val), len(clinc.test)) == (150, 15000, 3000, 4500)
    assert {name: len(texts) for name, texts in clinc.outside.items()} == {"train": 100, "val": 100, "test": 1000}
    korean = read(DATA / "parakqc")
    assert (len(korean.labels), len(korean.train) + len(korean.val)) == (1000, 10000)
