"""Picture classification and embedding, from a folder of pictures to a package that its evaluator judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from shared.errors import BadInput
from shared.evaluation import evaluator_for
from shared.evaluators.embedding import METRIC
from shared.runtime import load
from shared.training import networks
from shared.training.config import TrainConfig, parse
from shared.training.packaging import Trained, train_package
from shared.training.task import Task, make_task
from shared.training.tasks.embedding import arcface, proxy_anchor, supervised_contrast
from tests.shared.labelled_pictures import CLASSES, make_folders, need_grocery

SMALL = {"backbone": "resnet18", "pretrained": False, "width": 0.125, "image_size": 32}
LITE = {"backbone": "efficientnet-lite0", "image_size": 48, "freeze": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("pictures"))


def configured(folder: Path, task: str = "image-classification", **sections: Any) -> TrainConfig:
    raw = {"task": task, "data": {"path": str(folder)}, "model": SMALL, "fit": {"epochs": 1, "workers": 0}} | sections
    return parse(TrainConfig, raw, "test")


def made(config: TrainConfig) -> Task:
    task = make_task(config)
    assert isinstance(task, Task)
    return task


def judged(trained: Trained, data: Path) -> dict[str, float]:
    model = load(trained.path, provider="cpu", threads=1)
    found = evaluator_for(model.manifest).open(model.manifest, data).evaluate(model.run)
    return {found.metric: found.value, **found.extra}


def test_a_classifier_is_judged_by_its_package_as_in_training(folders: Path, tmp_path: Path) -> None:
    config = configured(
        folders, model=LITE, augment={"size": [32, 48]}, fit={"epochs": 2, "batch_norm": "frozen", "batch_size": 12}
    )
    trained = train_package(config, tmp_path / "package")
    found = judged(trained, folders)
    assert trained.probe is not None
    assert trained.probe["accuracy"] >= 0.8  # colours and patterns are easy for what has seen ImageNet
    assert found["accuracy"] == trained.metrics["accuracy"] >= 0.8
    assert found["ece"] == pytest.approx(trained.metrics["ece"], abs=1e-4)
    assert trained.metrics["export_difference"] < 1e-4
    manifest = load(trained.path, provider="cpu", threads=1).manifest
    assert manifest.labels == list(CLASSES)
    assert [each.name for each in manifest.weights] == ["efficientnet-lite0"]


def test_the_package_takes_pictures_of_any_size(folders: Path, tmp_path: Path) -> None:
    trained = train_package(configured(folders), tmp_path / "package")
    model = load(trained.path, provider="cpu", threads=1)
    for shape in ((1, 20, 300, 3), (3, 64, 40, 3)):
        answer = model.run({"image": np.full(shape, 90, dtype=np.uint8)})
        assert answer["logits"].shape == (shape[0], 3)
        assert answer["probabilities"].sum(axis=1) == pytest.approx(np.ones(shape[0]), abs=1e-5)


def test_frozen_groups_do_not_learn_and_are_not_offered(folders: Path) -> None:
    task = made(configured(folders, model=LITE))
    module = task.build()
    offered = {id(parameter) for group in task.groups(module) for parameter in group.parameters}
    body = module.get_submodule("body")
    assert isinstance(body, networks.Body)
    layers = networks.layer_groups(body.network)
    frozen = [parameter for group in layers[:4] for layer in group for parameter in layer.parameters()]
    assert frozen
    assert not any(parameter.requires_grad or id(parameter) in offered for parameter in frozen)
    assert {id(parameter) for parameter in module.parameters()} == offered | {id(each) for each in frozen}
    assert [group.is_head for group in task.groups(module)] == [False] * (len(layers) - 4) + [True]


def test_small_pictures_come_first(folders: Path) -> None:
    task = made(configured(folders, augment={"size": [32, 48, 64]}, fit={"epochs": 6}))
    sides = []
    for epoch in range(6):
        task.begin_epoch(epoch)
        batch = task.collate([task.samples.sample(0, np.random.default_rng(0))], np.random.default_rng(0))
        sides.append(batch["image"].shape[-1])
    assert sides == [32, 32, 48, 48, 64, 64]


@pytest.mark.slow
def test_a_student_learns_from_a_package(folders: Path, tmp_path: Path) -> None:
    train_package(configured(folders, model={**SMALL, "image_size": 40}), tmp_path / "teacher")
    config = configured(folders, distill={"teachers": [str(tmp_path / "teacher")], "logits": 0.5})
    trained = train_package(config, tmp_path / "student")
    assert "accuracy" in trained.metrics


@pytest.mark.parametrize("loss", ["arcface", "proxy-anchor", "proxy-nca", "supcon"])
def test_embeddings_are_unit_vectors_with_a_loss_that_falls(folders: Path, loss: str) -> None:
    task = made(configured(folders, "embedding", model={**SMALL, "loss": loss, "dimensions": 8}))
    torch.manual_seed(0)
    module = task.build().train()
    samples = [task.samples.sample(index, np.random.default_rng(index)) for index in range(0, 36, 3)]
    batch = task.collate(samples, np.random.default_rng(0))
    assert len(batch["image"]) == (24 if loss == "supcon" else 12)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        outputs = module(batch["image"])
        assert torch.allclose(outputs["embedding"].norm(dim=1), torch.ones(1), atol=1e-5)
        found = task.loss(outputs, batch)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_an_embedding_is_judged_by_its_package_as_in_training(folders: Path, tmp_path: Path) -> None:
    config = configured(folders, "embedding", model={**LITE, "dimensions": 16}, fit={"epochs": 1, "batch_size": 12})
    trained = train_package(config, tmp_path / "package")
    found = judged(trained, folders)
    assert found[METRIC] == trained.metrics[METRIC]
    assert found["map"] == pytest.approx(trained.metrics["map"], abs=1e-3)
    assert found[METRIC] > 0.5  # one in three by chance
    assert trained.metrics["export_difference"] < 1e-4
    model = load(trained.path, provider="cpu", threads=1)
    answer = model.run({"image": np.zeros((2, 50, 60, 3), dtype=np.uint8)})["embedding"]
    assert np.linalg.norm(answer, axis=1) == pytest.approx(np.ones(2), abs=1e-5)


def test_losses_prefer_what_is_right() -> None:
    targets = torch.tensor([0, 1])
    right, wrong = torch.eye(2), 1 - torch.eye(2)
    for loss in (arcface, proxy_anchor):
        assert loss(right, targets, 10.0, 0.2) < loss(wrong, targets, 10.0, 0.2)
    # With a margin the right answer costs more: that is what pushes the classes further apart.
    assert arcface(0.5 * right, targets, 10.0, 0.3) > arcface(0.5 * right, targets, 10.0, 0.0)
    together = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    labels = torch.tensor([0, 0, 1, 1])
    assert supervised_contrast(together, labels, 10.0) < supervised_contrast(together[[0, 2, 1, 3]], labels, 10.0)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"backbone": "resnet0"}}, "there is no network 'resnet0'"),
        ({"model": {**SMALL, "pretrained": True}}, "has no pretrained weights; write pretrained: false"),
        ({"model": {**SMALL, "freeze": 20}}, "has 9 groups of layers only"),
        ({"model": {**SMALL, "backbone": "vit_tiny_patch16_224"}}, "has one width only"),
        ({"augment": {"crop": 0.5, "zoom": [0.7, 1.4]}}, "augment: crop and zoom are two ways"),
        ({"augment": {"colours": 0.5}}, "unknown key colours; did you mean colour"),
        ({"data": {"path": "nowhere"}}, "nowhere is not a folder"),
    ],
)
def test_settings_that_cannot_be_are_said(folders: Path, sections: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        made(configured(folders, **sections)).build()


def test_pictures_that_are_left_out_are_named(tmp_path: Path) -> None:
    make_folders(tmp_path, train=4, val=1)
    (tmp_path / "train/bars/00.png").write_bytes(b"no picture")
    with capture_logs() as said:
        task = made(configured(tmp_path))
    assert len(task.samples) == 11
    assert [(each["file"], each["log_level"]) for each in said] == [("train/bars/00.png", "warning")]


def test_torchvision_networks_by_name() -> None:
    built = networks.build("torchvision/mobilenet_v2", pretrained=False)
    assert built.body.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, built.body.width)
    assert not built.licences


@pytest.mark.slow
def test_groceries_start_from_a_probe_on_real_photographs(tmp_path: Path) -> None:
    """The linear probe that the fine-tuning starts from, on a part of the classes for time's sake."""
    root = need_grocery()
    for split in ("train", "val"):
        lines = (root / f"{split}.txt").read_text().splitlines()
        chosen = [line for line in lines if int(line.split(",")[1]) < 10]
        (tmp_path / f"{split}.txt").write_text("\n".join(f"{root}/{line}" for line in chosen))
    config = configured(tmp_path, model={"image_size": 128})
    task = made(config)
    probe = task.probe(task.build().eval())
    assert probe is not None
    assert probe["accuracy"] > 0.5
