"""A whole package on a whole folder: brightness is the defect, so that every figure is known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shared.errors import BadInput, PackageRefused
from shared.images import encode_png
from solutions.inspection.evaluation import evaluate_files, evaluate_package
from solutions.inspection.report import contents_of, write_report
from tests.shared.packages import NG, REVIEW, make_package

KEYS = {
    "image_auroc", "pixel_auroc", "aupro", "overkill", "escape", "review", "latency_ms_p50", "latency_ms_p95",
    "images", "package_bytes", "model",
}  # fmt: skip


def picture(path: Path, level: float, seed: int) -> np.ndarray:
    """A dark grey picture with a bright square of `level` (0 to 1); returns the square as a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(20, 40, (96, 128, 3), dtype=np.uint8)
    mask = np.zeros((96, 128), np.uint8)
    mask[24:60, 32:80] = 255
    if level:
        image[mask > 0] = round(255 * level)
    path.write_bytes(encode_png(image))
    return mask


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(6):
        picture(root / f"test/good/{number}.png", 0.0, number)
    for number, level in enumerate([0.9, 0.95, 1.0, 0.6, 0.3]):  # three NG, one REVIEW, one escapes
        mask = picture(root / f"test/spot/{number}.png", level, 100 + number)
        if number != 2:
            truth = root / f"ground_truth/spot/{number}_mask.png"
            truth.parent.mkdir(parents=True, exist_ok=True)
            truth.write_bytes(encode_png(mask))
    picture(root / "test/good/bright.png", 0.8, 50)  # a good part with a reflection: overkill
    return root


@pytest.mark.parametrize("name", ["package", "package.zip"])
def test_every_figure_is_as_expected(data, tmp_path, name):
    package = make_package(tmp_path / name)
    metrics = evaluate_package(package, data, 1)
    assert set(metrics) >= KEYS
    assert metrics["images"] == 12
    assert metrics["masks"] == 4
    assert metrics["defect_regions"] == 4
    assert metrics["overkill"] == 1 / 7
    assert metrics["escape"] == 1 / 5
    assert metrics["review"] == 1 / 12
    assert metrics["image_auroc"] == pytest.approx((6 * 5 + 3) / 35)
    assert metrics["pixel_auroc"] > 0.95
    assert 0.5 < metrics["aupro"] <= 1
    assert metrics["thresholds"]["review"] == REVIEW
    assert metrics["thresholds"]["ng"] == NG
    assert metrics["threads"] == 1
    assert metrics["model"] == "tiny"
    size = (
        package.stat().st_size
        if package.is_file()
        else sum(f.stat().st_size for f in package.rglob("*") if f.is_file())
    )
    assert metrics["package_bytes"] == size
    json.dumps(metrics, allow_nan=False)


def test_report_of_a_package(data, tmp_path):
    package = make_package(tmp_path / "package")
    inspector, evaluation = evaluate_files(package, data, 1)
    write_report(tmp_path / "r.html", contents_of(inspector, evaluation, inspector.model.manifest))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "test/good/bright.png" in text
    assert text.index("test/spot/4.png") < text.index("test/spot/3.png")  # the lowest score first
    assert text.count("data:image/jpeg") == 2 * (7 + 5)


def test_what_cannot_be_evaluated_is_refused(data, tmp_path):
    package = make_package(tmp_path / "package")
    with pytest.raises(BadInput, match="does not exist"):
        evaluate_package(package, tmp_path / "nowhere")
    (package / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(PackageRefused):
        evaluate_package(package, data)
