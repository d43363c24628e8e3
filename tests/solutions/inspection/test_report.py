"""Evaluation and report, with a small judge that really learns: the mean and spread of every pixel of good parts."""

from __future__ import annotations

import html.parser
import io
import re
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_tools.dataset import scan
from data_tools.synthesize import KINDS, synthesize
from shared.auroc import auroc
from shared.errors import BadInput
from shared.images import read_image
from shared.manifest import Lineage, Manifest, TensorSpec, Threshold
from solutions.inspection import evaluation as evaluating
from solutions.inspection.chart import histogram_png
from solutions.inspection.report import Contents, Sample, contents_of, render, write_report
from solutions.inspection.thresholds import choose_thresholds

SIDE = 64


@dataclass
class Spot:
    box: tuple[int, int, int, int]


@dataclass
class Seen:
    score: float
    verdict: str
    regions: list[Spot]
    heatmap: np.ndarray
    latency_ms: float


class PixelJudge:
    """The simplest anomaly detector there is: how many deviations a pixel is from the mean of good parts."""

    def __init__(self, data) -> None:
        learned = np.stack([self._small(read_image(item.path)) for item in data.train_good])
        half = len(learned) // 2
        self._mean, self._spread = learned[:half].mean(axis=0), learned[:half].std(axis=0) + 3.0
        held_out = [float(self._heat(picture).max()) for picture in learned[half:]]
        self.thresholds = choose_thresholds(held_out, max_overkill=0.05)

    @staticmethod
    def _small(image: np.ndarray) -> np.ndarray:
        return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)

    def _heat(self, small: np.ndarray) -> np.ndarray:
        heat = np.abs((small - self._mean) / self._spread).mean(axis=2)
        return cv2.GaussianBlur(heat, (0, 0), 1.0).astype(np.float32)

    def inspect(self, image: np.ndarray) -> Seen:
        start = time.perf_counter()
        heat = self._heat(self._small(image))
        score = float(heat.max())
        verdict = "OK" if score < self.thresholds["review"].value else "REVIEW"
        verdict = "NG" if score >= self.thresholds["ng"].value else verdict
        y, x = divmod(int(heat.argmax()), SIDE)
        scale = image.shape[0] / SIDE
        box = (int(x * scale), int(y * scale), int((x + 4) * scale), int((y + 4) * scale))
        spots = [] if verdict == "OK" else [Spot(box)]
        return Seen(score, verdict, spots, heat, 1000 * (time.perf_counter() - start))


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("parts") / "flange <b>& co"
    synthesize(root, good=40, bad=24, test_good=14, seed=5, size=128)
    return root


@pytest.fixture(scope="module")
def judged(parts):
    data = scan(parts)
    judge = PixelJudge(data)
    return judge, evaluating.evaluate(judge, data)


def manifest_for(judge: PixelJudge) -> Manifest:
    return Manifest(
        name="flange",
        version="3",
        task="inspection",
        inputs=[TensorSpec(name="image", datatype="UINT8", shape=[-1, -1, -1, 3])],
        outputs=[TensorSpec(name="score", datatype="FP32", shape=[-1])],
        thresholds=judge.thresholds | {"pixel": Threshold(value=3.0, method="three deviations")},
        lineage=Lineage(
            data_fingerprint="f" * 64,
            code_revision="abc123",
            seed=7,
            settings={"model": "pixel", "note": "<script>alert(1)</script>"},
            created="2026-01-02T03:04:05Z",
        ),
    )


def test_evaluation_measures_what_the_verdicts_say(judged):
    judge, evaluation = judged
    metrics = evaluation.metrics
    assert metrics["images"] == 38
    assert metrics["image_auroc"] == auroc(evaluation.good_scores, evaluation.bad_scores)
    assert metrics["image_auroc"] > 0.6
    assert 0.5 < metrics["pixel_auroc"] <= 1
    assert 0.2 < metrics["aupro"] <= 1
    verdicts = {good: [one.verdict for one in evaluation.judged if one.item.is_good is good] for good in (True, False)}
    assert metrics["overkill"] == verdicts[True].count("NG") / 14
    assert metrics["escape"] == verdicts[False].count("OK") / 24
    assert metrics["review"] == (verdicts[True] + verdicts[False]).count("REVIEW") / 38
    assert metrics["good_not_ok"] == 1 - verdicts[True].count("OK") / 14
    assert 0 < metrics["latency_ms_p50"] <= metrics["latency_ms_p95"]
    assert metrics["image_auroc_interval"][0] <= metrics["image_auroc"] <= metrics["image_auroc_interval"][1]
    assert metrics["escape_interval"][0] <= metrics["escape"] <= metrics["escape_interval"][1]
    assert set(metrics["kinds"]) == set(KINDS)
    assert sum(kind["images"] for kind in metrics["kinds"].values()) == 24
    assert metrics["masks"] == 24
    assert judge.thresholds["review"].value <= judge.thresholds["ng"].value


def test_without_bad_parts_or_masks_the_metrics_are_null(parts, tmp_path):
    for number, file in enumerate(sorted((parts / "train/good").iterdir())):
        target = tmp_path / "only" / "good" / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    data = scan(tmp_path / "only")
    metrics = evaluating.evaluate(PixelJudge(data), data).metrics
    assert metrics["images"] == 40
    assert metrics["overkill"] is not None
    for key in ("image_auroc", "pixel_auroc", "aupro", "escape", "image_auroc_interval", "escape_interval"):
        assert metrics[key] is None


def test_nothing_to_judge_is_bad_input(parts, tmp_path):
    target = tmp_path / "set" / "train" / "good"
    target.mkdir(parents=True)
    (target / "a.png").write_bytes(next((parts / "train/good").iterdir()).read_bytes())
    with pytest.raises(BadInput, match="no pictures to judge"):
        evaluating.items_to_judge(scan(tmp_path / "set", need_good=1))


def test_worst_good_and_best_bad(judged):
    evaluation = judged[1]
    worst, best = evaluation.worst_good(3), evaluation.best_bad(3)
    assert [one.score for one in worst] == sorted(evaluation.good_scores, reverse=True)[:3]
    assert [one.score for one in best] == sorted(evaluation.bad_scores)[:3]


class Page(html.parser.HTMLParser):
    """Collects tags, image sources and text, and notices tags that are not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.words = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]
        self.links += [value for name, value in attrs if name in ("href", "action", "onclick", "onerror")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def parsed(page: str) -> Page:
    reader = Page()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_report_is_one_self_contained_page(judged, tmp_path):
    judge, evaluation = judged
    candidates = [
        {"model": "pixel", "auroc": 0.91, "seconds": 1.5, "chosen": True},
        {"model": "<i>other</i>", "auroc": None, "seconds": 12, "chosen": False},
    ]
    contents = contents_of(judge, evaluation, manifest_for(judge), candidates=candidates, samples=4)
    write_report(tmp_path / "report.html", contents)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = parsed(text)
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.links == []
    assert len(page.sources) == 1 + 2 * 8
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"https?://", text)
    assert "<script>alert(1)</script>" in page.words  # shown as text
    assert "flange <b>& co" in page.words
    for word in (
        "image AUROC",
        "overkill",
        "escape",
        "at most (95 %)",
        "missing_hole",
        "abc123",
        evaluation.data.fingerprint,
    ):
        assert word in page.words
    assert evaluation.worst_good(1)[0].item.name in page.words
    assert f"{evaluation.metrics['image_auroc']:.4f}" in page.words
    assert judge.thresholds["review"].details["promise"] in page.words
    assert len(text) < 2_000_000


def test_report_of_a_training_without_bad_parts():
    scores = list(np.random.default_rng(0).normal(5, 1, 30))
    heat = np.ones((8, 8), np.float32)
    sample = Sample("train/good/1.png", np.zeros((40, 50, 3), np.uint8), heat, 5.0, "OK")
    page = parsed(
        render(Contents("New", good_scores=scores, thresholds=choose_thresholds(scores), worst_good=[sample]))
    )
    assert "What to expect" in page.words
    assert "Defective parts" not in page.words
    assert len(page.sources) == 3


def test_report_with_nothing_in_it_is_still_a_page():
    page = parsed(render(Contents("Empty <&>")))
    assert "Empty <&>" in page.words
    assert page.sources == []


def test_report_lists_files_left_out_escaped(parts, tmp_path):
    root = tmp_path / "set"
    for file in sorted((parts / "train/good").iterdir())[:11]:
        (root / "good").mkdir(parents=True, exist_ok=True)
        (root / "good" / file.name).write_bytes(file.read_bytes())
    (root / "good" / '"><img src=x onerror=alert(1)>.png').write_bytes(b"broken")
    page = parsed(render(Contents("Set", data=scan(root))))
    assert page.sources == []
    assert page.links == []
    assert '"><img src=x onerror=alert(1)>.png' in page.words
    assert "1 files left out" in page.words


@pytest.mark.parametrize("bad", [None, [], [7.0, 9.0, 30.0]])
@pytest.mark.parametrize("good", [[], [5.0], [5.0] * 8, [1e-9, 2e-9], [-1e6, 1e6], [5.0, 6.0, 7.5]])
def test_histogram_is_a_picture_whatever_the_scores(good, bad):
    data = histogram_png(good, bad, {"review": 6.0, "ng": 8.0, "pixel": 100.0}, width=400, height=200)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (800, 400)
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 10


def test_histogram_shows_the_thresholds_in_their_order():
    def columns(review: float, ng: float) -> list[float]:
        data = histogram_png([0.0, 10.0], None, {"review": review, "ng": ng})
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        middle = pixels[100:500]
        return [
            float(np.flatnonzero((np.abs(middle - colour).sum(axis=2) < 6).sum(axis=0) > 60).mean())
            for colour in ((190, 130, 0), (176, 24, 40))
        ]

    review, ng = columns(3.0, 8.0)
    assert review < ng
    assert ng - review == pytest.approx(5 / 10.6 * 2 * (860 - 70), rel=0.02)
