"""`haechi compress` on a small classifier: packages that are written, and those that are not.

Times are made up (a model takes as long as its bytes are many, unless a test says otherwise): how fast a kernel is on
a busy machine is for `make bench`, what the ladder makes of it is for here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.bench import Timing
from shared.compression import candidate as candidates
from shared.compression import certificate as certificates
from shared.images import encode_png, read_image
from shared.package import open_package
from shared.runtime import Model, load
from solutions.cli import main
from tests.shared.compression.networks import CLASSES, classifier, pictures, written
from tests.shared.packages import run_model

LABELS = [f"kind-{number}" for number in range(CLASSES)]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier as a package."""
    folder = tmp_path_factory.mktemp("packages") / "parent"
    return written(folder, classifier(), LABELS, {"note.txt": b"hi"})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with the label that the classifier gives them, so that it is always right."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count, seed in (("train", 24, 50), ("val", 80, 51)):
        for label in LABELS:
            (root / split / label).mkdir(parents=True)
        for number, each in enumerate(pictures(count, seed)):
            label = LABELS[int(run_model(classifier(), each)["logits"].argmax())]
            (root / split / label / f"{number}.png").write_bytes(encode_png(each["image"][0]))
    return root


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Model], float]], None]:
    """Made-up times; call it with another rule (model → seconds)."""

    def use(rule: Callable[[Model], float]) -> None:
        def measure(models: Mapping[str, Model], inputs: Any, **_: Any) -> dict[str, Timing]:
            for model in models.values():
                model.run(inputs)
            return {name: Timing(np.full(20, rule(model)), 1) for name, model in models.items()}

        monkeypatch.setattr(candidates, "measure", measure)

    use(lambda model: len(model.package.model) * 1e-9)
    monkeypatch.setattr(certificates, "peak_memory", lambda *_: 1_000_000)
    return use


@dataclass(frozen=True)
class Result:
    exit_code: int
    output: str
    stderr: str


Compress = Callable[..., Result]


@pytest.fixture
def compress(capsys: pytest.CaptureFixture[str]) -> Compress:
    def run(parent: Path, output: Path, data: Path, *more: str, target: str = "x86") -> Result:
        words = ["compress", str(parent), "-o", str(output), "--target", target, "--data", str(data), *more]
        code = main(words)
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return run


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "small"


def test_a_package_in_int8_with_its_certificate(compress, parent, data, output, tmp_path):
    result = compress(parent, output, data, "--max-drop", "0.05", "--json", str(tmp_path / "certificate.json"))
    assert result.exit_code == 0, result.stderr
    before, after = open_package(parent), open_package(output)
    model = load(after, threads=1)  # with its self-test
    sample = next(pictures(1, 99))
    assert model.run(sample)["logits"].shape == (1, CLASSES)
    assert len(after.model) < 0.4 * len(before.model)
    manifest = after.manifest
    assert manifest.lineage.parent == before.fingerprint
    assert manifest.hardware == "x86"
    assert manifest.labels == LABELS
    assert after.asset("note.txt") == b"hi"
    certificate = manifest.certificate
    written = json.loads((tmp_path / "certificate.json").read_text(encoding="utf-8"))
    assert written.pop("written") == str(output)
    assert written == certificate
    assert certificate["chosen"]["rung"] == "int8, minmax"
    assert certificate["metric"] == "accuracy"
    assert certificate["before"]["metric"] == 1.0
    assert manifest.metrics["accuracy"] == certificate["after"]["metric"] >= 0.95
    assert certificate["before"]["model_bytes"] == len(before.model)
    assert certificate["after"]["model_bytes"] == len(after.model)
    assert certificate["ratios"]["faster"] == pytest.approx(len(before.model) / len(after.model))
    assert certificate["machine"]["cpu"]
    assert len(certificate["layers"]) >= 6
    assert [step["rung"] for step in certificate["rungs"]] == [
        "clean", "weights, fp16", "weights, int8", "fp16", "dynamic", "int8, minmax",
    ]  # fmt: skip
    other = sum(
        int(model.run({"image": read_image(path)[None]})["logits"].argmax()) != LABELS.index(path.parent.name)
        for path in (data / "val").rglob("*.png")
    )
    assert certificate["samples"] == 80
    assert certificate["changed"] == other
    assert certificate["agreement"] == pytest.approx(1 - other / 80)
    page = after.asset("certificate.html").decode()
    for said in (page, result.output):
        assert f"of 80 samples, {other} get another answer" in said
    assert "<script" not in page
    assert "://" not in page
    assert before.fingerprint in page
    assert "skipped: dynamic int8 is refused for convolutions" in result.output


def test_the_budget_decides_where_the_ladder_stops(compress, parent, data, output):
    size = open_package(parent).size
    result = compress(parent, output, data, "--max-drop", "0.05", "--max-bytes", str(int(size * 0.7)))
    assert result.exit_code == 0, result.stderr
    assert open_package(output).manifest.certificate["chosen"]["rung"] == "weights, fp16"
    assert open_package(output).size < size * 0.8


def test_a_slower_model_is_not_written(compress, parent, data, output, timed):
    whole = len(open_package(parent).model)
    timed(lambda model: 1e-3 if len(model.package.model) == whole else 1.2e-3)
    result = compress(parent, output, data, "--max-drop", "0.05")
    assert result.exit_code == 1
    assert "slower on this machine" in result.stderr
    assert "slower: 1.20 times" in result.output
    assert not output.exists()


def test_a_model_that_drops_more_than_allowed_is_not_written(compress, parent, data, output, monkeypatch, tmp_path):
    from shared.compression import quantise

    static = quantise.static

    def broken(model: bytes, bounds: Any, *rest: Any, **options: Any) -> bytes:
        return static(model, {name: (low / 50, high / 50) for name, (low, high) in bounds.items()}, *rest, **options)

    monkeypatch.setattr(quantise, "static", broken)
    result = compress(parent, output, data, "--rungs", "int8,int8-without", "--json", str(tmp_path / "why.json"))
    assert result.exit_code == 1
    assert "which needs --max-drop" in result.stderr
    assert not output.exists()
    why = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    assert why["written"] is None
    tried = [step["rung"] for step in why["rungs"]]
    assert tried[:3] == ["int8, minmax", "int8, percentile", "int8, entropy"]
    assert "1 layer in float" in tried[3]
    assert all("allowed 0.005" in step["why"] for step in why["rungs"])


def test_a_budget_out_of_reach_says_what_to_relax(compress, parent, data, output):
    result = compress(
        parent, output, data, "--max-drop", "0.05", "--min-speedup", "100", "--rungs", "clean,weights,int8"
    )
    assert result.exit_code == 1
    assert "relax --min-speedup to" in result.stderr
    assert not output.exists()


def test_only_a_width_that_is_quick_enough_is_taught(compress, parent, data, output, tmp_path):
    """By the teacher that is named, which is another package."""
    teacher = written(tmp_path / "teacher", classifier(seed=1), LABELS)
    words = ["--rungs", "student", "--epochs", "1", "--max-drop", "1", "--min-speedup", "6", "--teacher", str(teacher)]
    result = compress(parent, output, data, *words)
    assert result.exit_code == 0, result.stderr
    manifest = open_package(output).manifest
    steps = manifest.certificate["rungs"]
    assert [step["rung"] for step in steps] == ["width 0.75, untaught", "width 0.6, int8, minmax"]
    assert [step["result"] for step in steps] == ["skipped", "chosen"]
    assert steps[0]["speedup"] < 6 < steps[1]["speedup"]
    assert "asked for 6×" in result.output
    assert manifest.lineage.settings["compression"]["teachers"] == [open_package(teacher).fingerprint]


def test_no_narrower_one_is_taught_after_one_that_drops_too_much(compress, parent, data, output, tmp_path):
    words = ["--rungs", "student", "--epochs", "1", "--max-drop", "0", "--min-speedup", "6"]
    result = compress(parent, output, data, *words, "--json", str(tmp_path / "why.json"))
    assert result.exit_code == 1
    why = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    taught = [step["rung"] for step in why["rungs"] if step["result"] == "left"]
    assert taught == ["width 0.6, int8, minmax", "width 0.6, int8, percentile"]


def test_where_no_width_is_quick_enough_none_is_taught(compress, parent, data, output):
    result = compress(parent, output, data, "--rungs", "student", "--min-speedup", "1000")
    assert result.exit_code == 1
    assert "none was taught" in result.stderr
    assert "Nearest is 'width 0.3, untaught'" in result.stderr, "the same eight channels as at 0.25"
    assert "relax --min-speedup to" in result.stderr
    assert "epoch" not in result.stderr


def test_a_teacher_that_cannot_teach_is_refused_before_the_work(compress, parent, data, output, tmp_path):
    other = written(tmp_path / "other", classifier(), [*LABELS[1:], "strange"])
    result = compress(parent, output, data, "--rungs", "student", "--teacher", str(other))
    assert result.exit_code == 2
    assert "does not know the labels of shapes" in result.stderr
    result = compress(parent, output, data, "--teacher", str(parent))
    assert result.exit_code == 2
    assert "--rungs or --min-speedup" in result.stderr


def test_dynamic_int8_on_convolutions_is_refused(compress, parent, data, output):
    result = compress(parent, output, data, "--rungs", "dynamic")
    assert result.exit_code == 1
    assert "dynamic int8 is refused for convolutions" in result.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "mips"], "no target 'mips'"),
        (["--rungs", "magic"], "no rung 'magic'"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_words_are_named(compress, parent, data, output, words, message):
    result = compress(parent, output, data, *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_package_itself_is_not_overwritten(compress, parent, data):
    result = compress(parent, parent, data)
    assert result.exit_code == 2
    assert "is the package itself" in result.stderr


def test_a_gpu_target_needs_a_gpu(compress, parent, data, output):
    from shared.runtime import cuda_problem

    if cuda_problem() is None:
        pytest.skip("there is a GPU here")
    result = compress(parent, output, data, target="cuda")
    assert result.exit_code == 2
    assert "target cuda cannot be measured here" in result.stderr
    named = re.search(r"use --target ([\w-]+)\.", result.stderr)
    assert named is not None
    assert not output.exists()
    result = compress(parent, output, data, "--max-drop", "0.05", target=named[1])
    assert result.exit_code == 0, result.stderr
    assert "measured on" not in result.stderr, "the target that was named is this machine"
