"""The inspection evaluator on a package for which brightness is the defect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.errors import BadInput
from shared.images import encode_png
from shared.package import open_package
from shared.runtime import load
from solutions.inspection.evaluator import InspectionEvaluator
from tests.shared.packages import PIXEL, make_manifest, make_package


def picture(path: Path, level: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(10, 40, (48, 64, 3), dtype=np.uint8)
    image[8:40, 8:40] = np.maximum(image[8:40, 8:40], level)
    path.write_bytes(encode_png(image))


def make_data(root: Path, train: str = "train/good", test: str = "test/good", bad: str = "test/spot") -> Path:
    for number in range(12):
        picture(root / train / f"{number}.png", 0, number)
        picture(root / test / f"t{number}.png", 30, 100 + number)
    for number, level in enumerate([255, 250, 240, 160, 45]):
        picture(root / bad / f"{number}.png", level, 200 + number)
    return root


def test_auroc_groups_and_verdicts(tmp_path):
    package = open_package(make_package(tmp_path / "package"))
    data = InspectionEvaluator().open(package.manifest, make_data(tmp_path / "data"))
    found = data.evaluate(load(package, threads=1).run)
    assert found.metric == "image_auroc"
    assert found.value == 1.0
    assert found.groups.tolist() == [0] * 12 + [1] * 5
    assert found.answers is not None
    assert found.answers.tolist() == [0] * 12 + [2, 2, 2, 1, 0]
    assert found.extra == {"overkill": 0.0, "escape": 0.2, "review": pytest.approx(1 / 17)}
    # A resample with the good parts twice and one bad part asks for nothing outside it.
    assert found.resampled(np.array([0, 0, 16])) == 1.0


def test_calibration_never_shows_what_is_judged(tmp_path):
    root = make_data(tmp_path / "data")
    package = open_package(make_package(tmp_path / "package"))
    data = InspectionEvaluator().open(package.manifest, root)
    samples = list(data.calibration(100, seed=1))
    assert len(samples) == 12
    assert max(int(each["image"].max()) for each in samples) < 40  # test/good has 30 at least in the square
    assert samples[0]["pixel_threshold"] == pytest.approx([PIXEL])
    again = list(data.calibration(3, seed=1))
    assert all(np.array_equal(one["image"], two["image"]) for one, two in zip(samples, again, strict=False))
    other = next(iter(data.calibration(1, seed=2)))
    assert not np.array_equal(other["image"], samples[0]["image"])


def test_good_and_bad_folders_are_shared_out(tmp_path):
    package = open_package(make_package(tmp_path / "package"))
    root = make_data(tmp_path / "data", "good", "good", "bad")
    data = InspectionEvaluator().open(package.manifest, root)
    calibrating = {each["image"].tobytes() for each in data.calibration(100, 0)}
    judged: set[bytes] = set()

    def run(inputs):
        judged.add(inputs["image"].tobytes())
        return load(package, threads=1, self_test=False, warm_up=False).run(inputs)

    data.evaluate(run)
    assert len(calibrating) == 12
    assert len(judged) == 12 + 5
    assert not calibrating & judged


def test_what_cannot_be_measured_is_said(tmp_path):
    manifest = make_manifest()
    root = make_data(tmp_path / "data")
    with pytest.raises(BadInput, match="is for something"):
        InspectionEvaluator().open(manifest.model_copy(update={"task": "something"}), root)
    thresholds = {name: value for name, value in manifest.thresholds.items() if name != "pixel"}
    with pytest.raises(BadInput, match="no threshold pixel"):
        InspectionEvaluator().open(manifest.model_copy(update={"thresholds": thresholds}), root)
    for each in (root / "test/spot").iterdir():
        each.unlink()
    with pytest.raises(BadInput, match="defective parts"):
        InspectionEvaluator().open(manifest, root)
