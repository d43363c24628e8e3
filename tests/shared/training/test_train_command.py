"""`haechi train`, from the YAML file to the package, and students that learn from packages."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml

from shared.package import Golden, open_package, write_package
from shared.runtime import load
from shared.training import task as tasks
from shared.training.config import Distill, TrainConfig
from shared.training.engine import fit
from shared.training.packaging import train_package
from shared.training.task import Exported, OwnLoop
from shared.training.teachers import Lessons
from solutions.cli import main
from tests.shared.training import toy


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAECHI_QUIET", "1")
    monkeypatch.setitem(tasks.TASKS, "toy", "tests.shared.training.toy:Toy")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wider network that was trained well."""
    folder = tmp_path_factory.mktemp("teacher")
    config = toy.config(fit={"epochs": 8}, model={"width": 12})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAECHI_QUIET", "1")
        patch.setitem(tasks.TASKS, "toy", "tests.shared.training.toy:Toy")
        trained = train_package(config, folder / "teacher")
    assert trained.metrics["accuracy"] > 0.9
    return folder / "teacher"


def _write(path: Path, config: TrainConfig | dict[str, Any]) -> str:
    raw = config.model_dump(mode="json") if isinstance(config, TrainConfig) else config
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return str(path)


def _train(tmp_path: Path, *options: str, config: TrainConfig | dict[str, Any] | None = None) -> int:
    file = _write(tmp_path / "toy.yaml", config or toy.config(fit={"epochs": 2}))
    return main(["train", file, "-o", str(tmp_path / "package"), *options])


def test_a_file_becomes_a_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "result.json"
    config = toy.config(fit={"epochs": 4}, name="shapes", version="3")
    assert _train(tmp_path, "--json", str(kept), "--seed", "5", "--set", "model.width=6", config=config) == 0
    printed = capsys.readouterr().out
    result = json.loads(kept.read_text())
    for figure in (result["metrics"]["accuracy"], result["probe"]["accuracy"]):
        assert f"{figure:.4g}" in printed
    assert str(tmp_path / "package") in printed
    assert str(tmp_path / "package.run") in printed
    assert "4 epochs (all epochs)" in printed

    package = open_package(tmp_path / "package")
    manifest = package.manifest
    assert (manifest.name, manifest.version, manifest.task) == ("shapes", "3", "toy")
    assert manifest.metrics == pytest.approx(result["metrics"])
    assert (manifest.metric, manifest.evaluator) == ("accuracy", "image-classification")
    assert manifest.metrics["export_difference"] < 1e-3
    assert manifest.metrics["probe_accuracy"] == result["probe"]["accuracy"]
    assert manifest.lineage.seed == 5
    assert manifest.lineage.settings["model"] == {"width": 6}
    assert manifest.labels == toy.LABELS

    task = toy.Toy(config)
    images = np.stack([image for image, _ in task.held])
    right = load(package).run({"image": images})["logits"].argmax(1) == [label for _, label in task.held]
    assert float(right.mean()) == pytest.approx(manifest.metrics["accuracy"])


def test_places_are_looked_at_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "package.run").mkdir()
    (tmp_path / "package.run" / "notes.txt").write_text("mine")
    assert _train(tmp_path) == 2
    assert "is not empty; go on with --resume, or choose another folder with --run" in capsys.readouterr().err
    assert not (tmp_path / "package").exists()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "notes.txt").write_text("mine")
    assert _train(tmp_path, "--run", str(tmp_path / "other")) == 2
    assert "exists and is no model package" in capsys.readouterr().err
    assert (tmp_path / "package" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "fit.epoch=3"], "unknown key fit.epoch; did you mean epochs?"),
        (["--set", "task=toi"], "there is no task 'toi'"),
        (["--set", "name=My Model"], "name 'My Model' cannot be used"),
        (["--set", "data.path=x"], "data.path: the toy task has no files"),
        (["--sign", "missing.pem"], "missing.pem"),
        (["--seed", "-1"], "--seed"),
        (["--set", "fit.device=cuda:7"], "fit.device 'cuda:7'"),
    ],
)
def test_what_cannot_be_used_is_said_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert _train(tmp_path, *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "package.run").exists()
    assert not (tmp_path / "package").exists()


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(task: toy.Toy, outputs: Any, batch: Any) -> torch.Tensor:
        task.losses += 1
        if task.losses == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.nn.functional.cross_entropy(outputs["logits"], batch["target"])

    with monkeypatch.context() as patch:
        patch.setattr(toy.Toy, "loss", interrupt)
        assert _train(tmp_path) == 130
    assert "stopped; go on with the same command and --resume." in capsys.readouterr().err
    state = json.loads((tmp_path / "package.run" / "checkpoint" / "state.json").read_text())
    assert (state["epoch"], state["step"]) == (0, 4)
    assert _train(tmp_path) == 2
    assert _train(tmp_path, "--resume") == 0
    assert open_package(tmp_path / "package").manifest.metric == "accuracy"


def test_help_teaches_with_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    begin, end = shown.index("task: image"), shown.index("`data`, `model`")
    example = TrainConfig.model_validate(yaml.safe_load(textwrap.dedent("  " + shown[begin:end])))
    assert example.distill.compare
    assert "torchrun" in shown


class Counting(OwnLoop):
    """A task with a loop of its own."""

    metric = "accuracy"

    def __init__(self, config: TrainConfig) -> None:
        self.toy = toy.Toy(config)
        self.licences = []
        self.data_fingerprint = "1" * 64

    def train(self, folder: Path, *, resume: bool) -> tuple[Exported, dict[str, float]]:
        return self.toy.export(self.toy.build().eval()), {"accuracy": 0.25}


def test_tasks_with_their_own_loop_are_packaged_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "toy", f"{__name__}:Counting")
    trained = train_package(toy.config(), tmp_path / "own.zip")
    manifest = open_package(tmp_path / "own.zip").manifest
    assert manifest.name == "own"
    assert manifest.metrics == trained.metrics
    assert manifest.metrics["accuracy"] == 0.25
    assert manifest.lineage.data_fingerprint == "1" * 64


# -- MLflow ----------------------------------------------------------------------------------------------------------


def test_mlflow_shows_one_run_also_after_a_resume(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    store = f"file:{tmp_path / 'runs'}"
    config = toy.config(fit={"epochs": 3}, track={"tensorboard": False, "mlflow": store, "experiment": "shapes"})
    task = toy.Toy(config)

    def fail(number: int) -> None:
        if number == 8:
            raise RuntimeError("cut")

    task.at_loss = fail
    with pytest.raises(RuntimeError, match="cut"):
        fit(task, config, tmp_path / "run")
    result = fit(toy.Toy(config), config, tmp_path / "run", resume=True)
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("shapes")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["fit.epochs"] == "3"
    course = client.get_metric_history(run.info.run_id, "validation/accuracy")
    assert [each.value for each in course] == [each["metrics"]["accuracy"] for each in result.history]


def test_an_unusable_mlflow_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    assert _train(tmp_path, "--set", "track.mlflow=nonsense://x") == 1
    assert "MLflow (track.mlflow) failed" in capsys.readouterr().err


# -- teachers --------------------------------------------------------------------------------------------------------


def _student(teachers: list[Path], **distill: Any) -> TrainConfig:
    section = {"teachers": [str(path) for path in teachers], **distill}
    return toy.config(fit={"epochs": 3}, model={"width": 4}, distill=section)


@pytest.mark.parametrize("how", [{"logits": 1.0, "temperature": 1.0}, {"features": 1.0}])
def test_a_student_comes_to_answer_as_its_teacher(tmp_path: Path, teacher: Path, how: dict[str, float]) -> None:
    """With labels that call everything a bar: only from the teacher can it know a cross."""

    class Lied(toy.Toy):
        metric = "asked"  # the last epoch is the best

        def __init__(self, config: TrainConfig) -> None:
            super().__init__(config)
            assert isinstance(self.samples, toy.ToySamples)
            self.samples.items = [(image, 0) for image, _ in self.samples.items]
            self.asked = 0

        def validate(self, module: torch.nn.Module, device: Any) -> dict[str, float]:
            self.asked += 1
            return super().validate(module, device) | {"asked": self.asked}

    fit_settings = {"epochs": 8, "probe": False}
    taught = toy.config(fit=fit_settings, distill={"teachers": [str(teacher)], **how})
    alone = toy.config(fit=fit_settings)
    lied = fit(Lied(alone), alone, tmp_path / "alone")
    knows = fit(Lied(taught), taught, tmp_path / "taught")
    if "logits" in how:
        assert lied.metrics["accuracy"] == pytest.approx(1 / 3)
        assert knows.metrics["accuracy"] > 0.6
        return
    images = torch.from_numpy(np.stack([image for image, _ in toy.Toy(alone).held]))
    theirs = torch.from_numpy(load(teacher).run({"image": images.numpy()})["features"])
    assert _best_fit(knows.module, images, theirs) > _best_fit(lied.module, images, theirs) + 0.1


def _best_fit(network: torch.nn.Module, images: torch.Tensor, theirs: torch.Tensor) -> float:
    """The share of the teacher's features' variance that a linear layer on the student's explains."""
    with torch.no_grad():
        ours = network(images)["features"]
    ours = torch.cat([ours, torch.ones(len(ours), 1)], dim=1).double()
    theirs = theirs.double()
    rest = theirs - ours @ torch.linalg.lstsq(ours, theirs).solution
    return float(1 - rest.square().sum() / (theirs - theirs.mean(0)).square().sum())


def test_softened_answers_are_mixed_with_the_labels_loss() -> None:
    """Against the formula of Hinton et al. (2015), computed by hand for one sample of two classes at T = 2."""
    lessons = Lessons(Distill(teachers=[Path("any")], logits=0.25, temperature=2.0), 0, {})
    outputs = {"logits": torch.tensor([[2.0, 0.0]])}
    theirs, ours = [0.2, 0.8], [1 / (1 + math.exp(-1)), 1 / (1 + math.e)]
    divergence = sum(p * math.log(p / q) for p, q in zip(theirs, ours, strict=True))
    loss = lessons(torch.tensor(3.0), outputs, {"soft": torch.tensor([theirs])})
    assert float(loss) == pytest.approx(0.75 * 3.0 + 0.25 * 4 * divergence, rel=1e-5)


def test_a_run_with_teachers_goes_on_exactly(tmp_path: Path, teacher: Path) -> None:
    """The layers that translate features are trained too, and must be in the checkpoint."""
    config = _student([teacher, teacher], logits=0.5, features=2.0)
    whole = fit(toy.Toy(config), config, tmp_path / "whole")
    task = toy.Toy(config)

    def fail(number: int) -> None:
        if number == 9:
            raise RuntimeError("cut")

    task.at_loss = fail
    with pytest.raises(RuntimeError, match="cut"):
        fit(task, config, tmp_path / "cut")
    resumed = fit(toy.Toy(config), config, tmp_path / "cut", resume=True)
    assert resumed.metrics == whole.metrics
    for one, other in zip(resumed.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_labels_in_another_order_are_put_in_order(tmp_path: Path, teacher: Path) -> None:
    """A package whose outputs are turned round, with its labels turned alike, teaches the same."""
    turned = _turned(teacher, tmp_path / "turned")
    runs = []
    for number, path in enumerate((teacher, turned)):
        config = _student([path], logits=1.0)
        runs.append(fit(toy.Toy(config), config, tmp_path / str(number)))
    assert runs[0].metrics == pytest.approx(runs[1].metrics, rel=1e-4)


def _turned(package: Path, destination: Path) -> Path:
    opened = open_package(package)
    model = onnx.load_from_string(opened.model)
    for node in model.graph.node:
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
    order = onnx.helper.make_tensor("order", onnx.TensorProto.INT64, [3], [2, 1, 0])
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", ["before", "order"], ["logits"], axis=1))
    outputs = {name: value[:, ::-1] if name == "logits" else value for name, value in opened.golden.outputs.items()}
    manifest = opened.manifest.model_copy(update={"labels": opened.manifest.labels[::-1]})
    golden = Golden(opened.golden.inputs, {name: np.ascontiguousarray(value) for name, value in outputs.items()})
    write_package(destination, manifest, model.SerializeToString(), golden)
    return destination


def test_the_student_alone_is_shown_beside_the_distilled_one(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "result.json"
    config = _student([teacher], logits=0.8, compare=True)
    assert _train(tmp_path, "--json", str(kept), config=config) == 0
    printed = capsys.readouterr().out
    assert "student alone" in printed
    assert "distilled" in printed
    result = json.loads(kept.read_text())
    plain = toy.config(fit={"epochs": 3}, model={"width": 4})
    alone = fit(toy.Toy(plain), plain, tmp_path / "plain")
    assert result["student_alone"] == alone.metrics
    assert result["metrics"]["cross_entropy"] != alone.metrics["cross_entropy"]
    manifest = open_package(tmp_path / "package").manifest
    assert manifest.metrics["student_alone_accuracy"] == alone.metrics["accuracy"]


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ({"teachers": ["missing"], "logits": 0.5}, "distill.teachers: missing"),
        ({"teachers": ["TEACHER"]}, "set distill.logits or distill.features above 0"),
        ({"teachers": [], "logits": 0.5}, "distill.logits needs distill.teachers"),
        ({"teachers": [], "compare": True}, "distill.compare needs distill.teachers"),
    ],
)
def test_teachers_that_cannot_teach_are_refused(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], distill: dict[str, Any], said: str
) -> None:
    distill["teachers"] = [str(teacher) if name == "TEACHER" else name for name in distill["teachers"]]
    assert _train(tmp_path, config=toy.config(distill=distill)) == 2
    assert said in capsys.readouterr().err


def test_a_teacher_of_other_labels_is_refused(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _student([teacher], logits=0.5).model_copy(update={"data": {"labels": ["bar", "square", "star"]}})
    assert _train(tmp_path, config=config) == 2
    assert "does not know 'star'; use a teacher that was trained on the same labels" in capsys.readouterr().err


def test_a_damaged_teacher_is_refused(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(teacher, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.onnx").write_bytes(b"0" * 100)
    assert _train(tmp_path, config=_student([tmp_path / "damaged"], logits=0.5)) == 2
    assert "distill.teachers" in capsys.readouterr().err
