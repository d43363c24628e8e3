"""YOLO through the public way: a configuration becomes a package, which is loaded and asked.

What trains for an epoch or two is quick; what must learn something is marked slow.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from shared.detections import MOST, paste_mask
from shared.errors import BadInput, HaechiError
from shared.evaluation import evaluator_for, paired_drop
from shared.images import read_image
from shared.labelled_boxes import read_boxes
from shared.runtime import load
from shared.training.config import TrainConfig, parse
from shared.training.packaging import Trained, train_package
from shared.training.task import make_task
from tests.shared.training.tasks.shapes import NAMES, classes, shapes

SMALL = {"architecture": "yolov8n", "image_size": 64, "width": 0.125, "depth": 0.33}
"""A network of 0.8 million parameters, for tests of everything but learning."""


def config(task: str, data: Path, model: dict[str, Any], **fit: Any) -> TrainConfig:
    raw = {
        "task": task,
        "data": {"path": str(data)},
        "model": model,
        "fit": {"batch_size": 8, "device": "cpu", **fit},
        "track": {"tensorboard": False},
    }
    return parse(TrainConfig, raw, "test")


def tree(folder: Path) -> dict[str, str]:
    return {
        str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained, str]:
    """One epoch on 8 pictures, larger than the network's square, with no network and no home to write into."""
    folder = tmp_path_factory.mktemp("yolo")
    data = shapes(folder / "data", 8, 4, sides=(80, 160))
    before = tree(folder / "data")
    home = folder / "home"
    home.mkdir()
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
        patch.setenv("HAECHI_QUIET", "1")
        patch.setattr("sys.stdout", said)
        patch.setattr("sys.stderr", said)
        patch.setattr(socket, "getaddrinfo", _no_network)
        result = train_package(config("detection", data, SMALL, epochs=1), folder / "package")
    assert tree(folder / "data") == before  # no caches beside the user's data
    # And none in the home, but for what ONNX Runtime keeps there whatever it runs.
    assert [name for name in tree(home) if not name.startswith(".cache/Microsoft/")] == []
    return data, result, said.getvalue()


def _no_network(*_: Any, **__: Any) -> Any:
    raise AssertionError("a name was looked up")


def test_training_is_silent_and_leaves_no_pickle(trained: tuple[Path, Trained, str]) -> None:
    _, result, said = trained
    assert said == ""
    kept = sorted(str(each.relative_to(result.folder)) for each in result.folder.rglob("*") if each.is_file())
    assert "metrics.jsonl" in kept
    assert "checkpoint/weights.safetensors" in kept
    assert not [name for name in kept if name.endswith((".pt", ".pkl", ".cache", ".npy"))]


@pytest.mark.usefixtures("trained")
def test_the_library_leaves_no_patch_behind() -> None:
    """Its own `Image.open` would try to install a library when a file is no picture."""
    assert Image.open.__module__ == "PIL.Image"
    assert torch.save.__module__ == "torch.serialization"


def test_the_package_is_a_detector_as_any_other(trained: tuple[Path, Trained, str]) -> None:
    data, result, _ = trained
    model = load(result.path, "cpu", 1)
    manifest = model.manifest
    assert (manifest.task, manifest.evaluator, manifest.metric) == ("detection", "detection", "map50_95")
    assert manifest.labels == NAMES
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs] == [("image", "UINT8", [-1, -1, -1, 3])]
    assert {spec.name: (spec.datatype, spec.shape) for spec in manifest.outputs} == {
        "boxes": ("FP32", [-1, MOST, 4]),
        "scores": ("FP32", [-1, MOST]),
        "classes": ("INT64", [-1, MOST]),
    }
    assert manifest.metrics["export_difference"] < 1e-4
    assert manifest.weights == []
    assert manifest.lineage.data_fingerprint == read_boxes(data).fingerprint
    rng = np.random.default_rng(0)
    for height, width, count in ((50, 70, 1), (300, 90, 3)):
        image = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        outputs = model.run({"image": image})
        boxes, scores = outputs["boxes"], outputs["scores"]
        assert boxes.shape == (count, MOST, 4)
        assert (np.diff(scores, axis=1) <= 0).all()
        assert boxes.min() >= 0
        assert boxes[..., [0, 2]].max() <= width
        assert boxes[..., [1, 3]].max() <= height
        one = model.run({"image": image[-1:]})
        np.testing.assert_allclose(one["scores"][0], scores[-1], atol=1e-5)


def test_its_evaluator_gives_what_the_manifest_says(trained: tuple[Path, Trained, str]) -> None:
    data, result, _ = trained
    model = load(result.path, "cpu", 1)
    held = evaluator_for(model.manifest).open(model.manifest, data)
    evaluation = held.evaluate(model.run)
    assert evaluation.value == pytest.approx(model.manifest.metrics["map50_95"])
    assert evaluation.samples == 4
    assert paired_drop(evaluation, held.evaluate(model.run), rounds=10).high == 0
    assert len(list(held.calibration(100, 0))) == 8


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("fit", {"layer_decay": 0.5}, "fit.layer_decay"),
        ("fit", {"frozen": 2}, "fit.frozen"),
        ("fit", {"probe": True}, "fit.probe has no effect on detection; leave it out"),
        ("fit", {"backbone_lr": 0.1}, "fit.backbone_lr has no effect"),  # our default, yet not what would happen
        ("fit", {"checkpoint_minutes": 5.0}, "saved after every epoch"),
        ("augment", {"erasing": 0.4}, "augment.erasing has no effect on detection"),
        ("data", {"labels": "auto"}, "data.labels has no effect"),
        ("distill", {"temperature": 2.0}, "distill.temperature has no effect"),
        ("distill", {"compare": True}, "distill.compare needs distill.teachers"),
        ("data", {"teacher_score": 0.5}, "data.teacher_score needs distill.teachers"),
        ("model", {"image_size": 100}, "model: image_size"),
        ("model", {"metric": "accuracy"}, "map50_95 or map50"),
        ("model", {"architectur": "yolo11n"}, "did you mean architecture"),
        ("augment", {"mosaik": 1}, "did you mean mosaic"),
        ("distill", {"logits": 0.5}, "by the boxes they find"),
        ("data", {"unlabelled": "more"}, "distill.teachers"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path: Path, section: str, values: dict[str, Any], said: str) -> None:
    raw = config("detection", shapes(tmp_path, 2, 1), SMALL).model_dump(mode="json", exclude_unset=True)
    raw[section] = raw.get(section, {}) | values
    with pytest.raises(BadInput, match=said):
        make_task(parse(TrainConfig, raw, "test"))


@pytest.mark.parametrize(("section", "values"), [("augment", {"mosaic": 1.0}), ("model", {"overlap": 0.7})])
def test_settings_of_boxes_mean_nothing_to_a_classifier(tmp_path: Path, section: str, values: dict[str, Any]) -> None:
    raw = config("yolo-classification", classes(tmp_path, 4, 2), {"image_size": 64}).model_dump(exclude_unset=True)
    raw[section] = raw.get(section, {}) | values
    with pytest.raises(BadInput, match="has no effect on yolo-classification"):
        make_task(parse(TrainConfig, raw, "test"))


def test_the_lineage_tells_what_was_used_and_not_what_the_engine_would_use(
    trained: tuple[Path, Trained, str],
) -> None:
    used = load(trained[1].path, "cpu", 1).manifest.lineage.settings["fit"]
    assert {name: used[name] for name in ("weight_decay", "clip", "ema")} == {
        "weight_decay": 0.0005, "clip": 10.0, "ema": 0.9999,
    }  # fmt: skip
    assert {name: used[name] for name in ("probe", "frozen", "backbone_lr", "layer_decay", "batch_norm")} == {
        "probe": False, "frozen": 0, "backbone_lr": 1.0, "layer_decay": 1.0, "batch_norm": "train",
    }  # fmt: skip
    assert "checkpoint_minutes" not in used
    assert (used["batch_size"], used["device"], used["workers"]) == (8, "cpu", 0)


def test_what_a_user_sets_is_what_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clipping is asked itself."""
    clipped = []
    real = torch.nn.utils.clip_grad_norm_

    def clip(parameters: Any, max_norm: float) -> Any:
        clipped.append(max_norm)
        return real(parameters, max_norm=max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    asked = config("detection", shapes(tmp_path / "data", 8, 4), SMALL, epochs=1, clip=3.0, weight_decay=0.01, ema=0.5)
    result = train_package(asked, tmp_path / "package")
    used = load(result.path, "cpu", 1).manifest.lineage.settings["fit"]
    assert (used["clip"], used["weight_decay"], used["ema"]) == (3.0, 0.01, 0.5)
    assert set(clipped) == {3.0}


def test_segmentation_of_boxes_and_poses_without_keypoints_are_refused(tmp_path: Path) -> None:
    data = shapes(tmp_path, 2, 1)
    with pytest.raises(BadInput, match="outline"):
        make_task(config("segmentation", data, SMALL))
    with pytest.raises(BadInput, match="kpt_shape"):
        make_task(config("pose", data, SMALL))


def test_an_unknown_architecture_and_missing_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shapes(tmp_path / "data", 2, 1)
    with pytest.raises(BadInput, match="yolo99n"):
        train_package(config("detection", data, SMALL | {"architecture": "yolo99n"}, epochs=1), tmp_path / "a")
    with pytest.raises(BadInput, match="does not exist"):
        train_package(config("detection", data, SMALL | {"weights": "far/away.pt"}, epochs=1), tmp_path / "b")

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    with pytest.raises(HaechiError, match=r"yolo11n\.pt .* looked in the cache .*copy the file to the cache"):
        train_package(config("detection", data, SMALL | {"weights": "yolo11n.pt"}, epochs=1), tmp_path / "c")


class Evil:
    """What a pickle can do to whoever loads it carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    data, trace = shapes(tmp_path / "data", 2, 1), tmp_path / "trace"
    for number, content in enumerate((pickle.dumps({"model": Evil(trace)}), b"no pickle")):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        with pytest.raises(BadInput, match="read safely"):
            train_package(config("detection", data, SMALL | {"weights": str(path)}, epochs=1), tmp_path / f"p{number}")
    import torch

    torch.save({"model": Evil(trace)}, tmp_path / "zip.pt")
    made = SMALL | {"weights": str(tmp_path / "zip.pt")}
    with pytest.raises(BadInput, match="read safely"):
        train_package(config("detection", data, made, epochs=1), tmp_path / "p9")
    assert not trace.exists()


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over the epoch in which mosaics end, and with gradients of two batches in a step."""
    from shared.training import checkpoint

    data = shapes(tmp_path / "data", 12, 4)
    settings = config("detection", data, SMALL, epochs=4, accumulate=2, batch_size=4)
    settings.augment["close_mosaic"] = 2
    whole = train_package(settings, tmp_path / "whole")
    real = checkpoint.save
    for last in (1, 3):

        def save(folder: Path, state: Any, tensors: Any, last: int = last) -> None:
            real(folder, state, tensors)
            if state.epoch == last:
                raise Killed

        monkeypatch.setattr(checkpoint, "save", save)
        with pytest.raises(Killed):
            train_package(settings, tmp_path / "parts", resume=True)
    monkeypatch.setattr(checkpoint, "save", real)
    parts = train_package(settings, tmp_path / "parts", resume=True)
    assert parts.metrics == whole.metrics
    for name in ("weights", "average", "optimizer"):
        first, second = (load_file(each.folder / "checkpoint" / f"{name}.safetensors") for each in (whole, parts))
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)
    lines = (parts.folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4
    again = train_package(settings, tmp_path / "parts", resume=True)  # one that had ended gives its result again
    assert again.metrics == whole.metrics
    with pytest.raises(BadInput, match="--resume"):
        train_package(settings, tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["yolo11n", "yolo26n"])
def test_a_detector_from_scratch_finds_the_shapes(tmp_path: Path, architecture: str) -> None:
    data = shapes(tmp_path / "data", 96, 24)
    model = {"architecture": architecture, "image_size": 96}
    result = train_package(config("detection", data, model, epochs=15), tmp_path / "package")
    assert result.metrics["map50"] > 0.5, result.metrics
    assert result.metrics["export_difference"] < 1e-4


@pytest.mark.slow
def test_masks_lie_on_the_things(tmp_path: Path) -> None:
    data = shapes(tmp_path / "data", 96, 12, "outlines")
    result = train_package(
        config("segmentation", data, {"architecture": "yolo11n", "image_size": 96}, epochs=15), tmp_path / "package"
    )
    assert result.metrics["map50"] > 0.5
    assert result.metrics["mask_map50"] > 0.5
    model = load(result.path, "cpu", 1)
    overlaps = []
    for each in read_boxes(data).held_out:
        image = read_image(each.path)
        outputs = model.run({"image": image[None]})
        mask = paste_mask(outputs["masks"][0, 0], *image.shape[:2])
        coloured = np.ptp(image.astype(int), axis=2) > 90  # the shapes; the noise is greyer
        x1, y1, x2, y2 = outputs["boxes"][0, 0].round().astype(int)
        box = np.zeros_like(mask)
        box[y1:y2, x1:x2] = True
        overlaps.append((mask & coloured & box).sum() / max((mask | (coloured & box)).sum(), 1))
    assert np.mean(overlaps) > 0.6, overlaps


@pytest.mark.slow
def test_poses(tmp_path: Path) -> None:
    data = shapes(tmp_path / "data", 96, 12, "keypoints")
    result = train_package(
        config("pose", data, {"architecture": "yolo11n", "image_size": 96}, epochs=15), tmp_path / "package"
    )
    assert result.metrics["map50"] > 0.5
    model = load(result.path, "cpu", 1)
    errors = []
    for each in read_boxes(data).held_out:
        image = read_image(each.path)
        height, width = image.shape[:2]
        outputs = model.run({"image": image[None]})
        assert each.keypoints is not None
        box, points = outputs["boxes"][0, 0], outputs["keypoints"][0, 0, :, :2]
        middles = (each.boxes[:, :2] + each.boxes[:, 2:]) / 2 * [width, height]
        nearest = np.abs(middles - (box[:2] + box[2:]) / 2).sum(axis=1).argmin()
        truth = each.keypoints[nearest, :, :2] * [width, height]
        errors.append(np.abs(points - truth).mean() / (box[2] - box[0]))
    assert np.median(errors) < 0.2, errors  # of the thing's width


@pytest.mark.slow
def test_classification(tmp_path: Path) -> None:
    data = classes(tmp_path / "data", 48, 16)
    result = train_package(
        config("yolo-classification", data, {"architecture": "yolo11n", "image_size": 64}, epochs=8),
        tmp_path / "package",
    )
    assert result.metrics["accuracy"] > 0.8
    model = load(result.path, "cpu", 1)
    assert (model.manifest.task, model.manifest.labels) == ("image-classification", sorted(NAMES))
    outputs = model.run({"image": np.zeros((2, 30, 50, 3), dtype=np.uint8)})
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert outputs["logits"].shape == (2, 2)


@pytest.mark.slow
def test_a_teacher_labels_what_nobody_has(tmp_path: Path) -> None:
    """With two labelled pictures the student alone finds little; the teacher's boxes on 94 more make up for it."""
    rich = shapes(tmp_path / "rich", 96, 24)
    teacher = train_package(
        config("detection", rich, {"architecture": "yolo11n", "image_size": 96}, epochs=15), tmp_path / "teacher"
    )
    poor = shapes(tmp_path / "poor", 2, 24)
    student = config("detection", poor, {"architecture": "yolov8n", "image_size": 96}, epochs=12)
    student.distill.teachers = [teacher.path]
    student.distill.compare = True
    student.data["unlabelled"] = str(rich.parent / "images" / "train")
    result = train_package(student, tmp_path / "student")
    assert result.metrics["map50"] > result.metrics["student_alone_map50"] + 0.2, result.metrics
