"""`haechi inspection evaluate`, `predict`, `run` as a user calls them, on a tiny package that calls brightness bad."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.images import encode_png, read_image
from shared.pictures import PictureStore
from shared.records import Records
from shared.registry import Registry
from shared.training.packaging import check_places, run_folder
from solutions import cli
from solutions.inspection import commands
from solutions.inspection.pipeline import Inspector
from solutions.inspection.watch import Folder, Station, append_line
from tests.shared.packages import make_package

HAECHI = Path(sys.executable).parent / "haechi"
KEYS = {
    "image_auroc", "pixel_auroc", "aupro", "overkill", "escape", "review", "latency_ms_p50", "latency_ms_p95",
    "images", "package_bytes", "model",
}  # fmt: skip


def part(path: Path, level: float = 0.0, seed: int = 0, size: tuple[int, int] = (128, 96)) -> Path:
    """A dark picture with a bright square of `level` from a quarter to three quarters of each side."""
    width, height = size
    image = np.random.default_rng(seed).integers(20, 40, (height, width, 3), dtype=np.uint8)
    if level:
        image[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = round(255 * level)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))
    return path


def rest(*paths: Path) -> None:
    """Let files look as if nobody had written to them for a minute."""
    for path in paths:
        os.utime(path, (time.time() - 60, time.time() - 60))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(6):
        part(root / f"test/good/{number}.png", 0.0, number)
        part(root / f"test/spot/{number}.png", 0.9, 100 + number)
    return root


def haechi(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


# -- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_writes_the_keys_and_prints_the_figures(data, package, tmp_path, capsys) -> None:
    figures, report = tmp_path / "figures.json", tmp_path / "report.html"
    command = ["inspection", "evaluate", package, data, "--json", figures, "--report", report, "--threads", 1]
    assert haechi(*command) == 0
    metrics = json.loads(figures.read_text())
    assert set(metrics) >= KEYS
    assert metrics["image_auroc"] == 1.0
    assert metrics["images"] == 12
    assert metrics["threads"] == 1
    assert "<html" in report.read_text()
    shown = capsys.readouterr().out
    assert "image AUROC" in shown
    assert "1.0000" in shown
    assert str(report) in shown


def test_a_package_may_be_named_as_the_registry_names_it(data, package, capsys) -> None:
    Registry().add(package, alias="champion")
    assert haechi("inspection", "evaluate", "tiny@champion", data) == 0
    assert haechi("inspection", "predict", "tiny", data / "test/good/0.png") == 0
    assert haechi("inspection", "evaluate", "tiny@7", data) == 2
    assert "no version 7" in capsys.readouterr().err


def test_a_folder_that_says_nothing_of_defects_gives_dashes(package, tmp_path, capsys) -> None:
    for number in range(3):
        part(tmp_path / f"good/{number}.png", 0.0, number)
    assert haechi("inspection", "evaluate", package, tmp_path, "--json", tmp_path / "f.json") == 0
    assert json.loads((tmp_path / "f.json").read_text())["image_auroc"] is None
    assert "–" in capsys.readouterr().out


# -- predict ---------------------------------------------------------------------------------------------------------


def test_predict_gives_score_verdict_and_boxes_in_pixels_of_the_original(package, tmp_path, capsys) -> None:
    good = part(tmp_path / "a.png")
    bad = part(tmp_path / "b.png", 1.0, size=(640, 480))
    out = tmp_path / "decisions.json"
    assert haechi("inspection", "predict", package, good, bad, "--json", out, "--heatmap", tmp_path / "maps") == 0
    first, second = json.loads(out.read_text())
    assert (first["file"], first["verdict"], first["regions"], first["box"]) == (str(good), "OK", [], None)
    assert second["verdict"] == "NG"
    assert second["score"] == pytest.approx(1.0, abs=1e-3)
    assert second["box"] == second["regions"][0]["box"]
    assert np.allclose(second["box"], [160, 120, 480, 360], atol=41)  # one cell of the 16 × 16 heat map
    assert second["regions"][0]["area"] > 320 * 240 / 2
    drawn = read_image(Path(second["heatmap"]))
    assert drawn.shape == (480, 640, 3)
    assert not np.array_equal(drawn, read_image(bad))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["OK", "NG"]


def test_predict_decides_as_the_pipeline_does(data, package, tmp_path) -> None:
    out = tmp_path / "decisions.json"
    assert haechi("inspection", "predict", package, data / "test", "--json", out) == 0
    results = json.loads(out.read_text())
    assert len(results) == 12
    inspector = Inspector.load(package, threads=1)
    for result in results:
        decision = inspector.inspect(read_image(result["file"]))
        assert result["score"] == pytest.approx(decision.score)
        assert result["verdict"] == decision.verdict


def test_unreadable_files_are_named_at_the_end_and_the_others_judged(package, tmp_path, capsys) -> None:
    good = part(tmp_path / "a.png")
    torn = tmp_path / "torn.png"
    torn.write_bytes(good.read_bytes()[:200])
    last = part(tmp_path / "z.png", 1.0)
    out = tmp_path / "decisions.json"
    code = haechi("inspection", "predict", package, good, torn, tmp_path / "none.png", last, "--json", out)
    assert code == 2
    assert [Path(result["file"]).name for result in json.loads(out.read_text())] == ["a.png", "z.png"]
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 2 of 4 could not be judged, the first: ")
    assert "torn.png" in error


def test_one_unreadable_file_is_one_sentence(package, tmp_path, capsys) -> None:
    assert haechi("inspection", "predict", package, tmp_path / "none.png", "--json", tmp_path / "d.json") == 2
    assert json.loads((tmp_path / "d.json").read_text()) == []
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.png'} does not exist; check the path.\n"


def test_heat_maps_of_pictures_with_one_name_do_not_overwrite_each_other(package, tmp_path) -> None:
    files = [part(tmp_path / folder / name, 0.9) for folder, name in (("a", "p.png"), ("b", "p.png"), ("b", "P.bmp"))]
    maps = tmp_path / "maps"
    assert haechi("inspection", "predict", package, *files, "--heatmap", maps) == 0
    assert sorted(path.name for path in maps.iterdir()) == ["P_heatmap-3.png", "p_heatmap-2.png", "p_heatmap.png"]
    assert len(set(commands.heatmap_names(files).values())) == 3


def test_heat_maps_stay_out_of_the_pictures(data, package, tmp_path, capsys) -> None:
    pictures = data / "test"
    assert haechi("inspection", "predict", package, pictures, "--heatmap", pictures) == 2
    assert "name another one" in capsys.readouterr().err
    for _ in range(2):  # the second time, the heat maps of the first lie among the pictures
        assert (
            haechi("inspection", "predict", package, pictures, "--heatmap", pictures / "m", "--json", data / "d") == 0
        )
        assert len(json.loads((data / "d").read_text())) == 12


def test_a_folder_without_pictures_is_said(package, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert haechi("inspection", "predict", package, tmp_path / "empty") == 2
    assert "has no pictures in it" in capsys.readouterr().err


def test_names_that_are_no_utf_8_are_judged_and_written(package, tmp_path) -> None:
    source = part(tmp_path / "a.png")
    odd = os.fsencode(tmp_path) + b"/\xb0\xb1.png"
    os.rename(source, odd)
    out = tmp_path / "d.json"
    done = subprocess.run(
        [HAECHI, "inspection", "predict", package, odd, "--json", out, "--heatmap", tmp_path / "m"],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text(encoding="utf-8"))[0]["file"].endswith("\\xb0\\xb1.png")


@pytest.mark.parametrize("verb", ["evaluate", "predict", "run"])
def test_what_is_no_package_is_refused_in_one_sentence(verb, data, tmp_path, capsys) -> None:
    assert haechi("inspection", verb, data, data) == 1
    assert haechi("inspection", verb, tmp_path / "nowhere", data) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("error: ") for line in errors)


@pytest.mark.parametrize("verb", ["evaluate", "predict", "run"])
def test_judging_needs_no_training_library(verb, data, package) -> None:
    """The verbs run where torch and onnx cannot be imported."""
    arguments = ["inspection", verb, str(package), str(data / "test" if verb == "run" else data)]
    arguments += ["--once"] if verb == "run" else []
    program = f"""
import sys
for name in ("torch", "torchvision", "timm", "onnx", "onnxscript", "ultralytics"):
    sys.modules[name] = None
from solutions.cli import main
sys.exit(main({arguments!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


# -- run -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


@pytest.fixture
def station(package: Path, tmp_path: Path) -> Iterator[Callable[..., Station]]:
    opened = []

    def make(**options: object) -> Station:
        opened.append(Records.open())
        return Station(Inspector.load(package, threads=1), opened[-1], PictureStore(tmp_path / "kept"), **options)

    yield make
    for records in opened:
        records.close()


def test_run_once_judges_what_is_there_and_remembers_it(folder, package, tmp_path, capsys) -> None:
    rest(part(folder / "a.png"), part(folder / "shift-2/b.png", 1.0))
    (folder / "notes.txt").write_text("not a picture")
    part(folder / ".hidden.png")
    lines = tmp_path / "lines.jsonl"
    command = ["inspection", "run", package, folder, "--once", "--interval", 0.05, "--json", lines]
    assert haechi(*command) == 0
    assert "2 judged: 1 OK, 0 REVIEW, 1 NG" in capsys.readouterr().out
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(line["file"], line["verdict"]) for line in written] == [("a.png", "OK"), ("shift-2/b.png", "NG")]
    with Records.open() as records:
        results = records.results()
        assert [result.source for result in results] == ["shift-2/b.png", "a.png"]
        assert results[0].verdict == "NG"
        assert results[0].package == "tiny"
        assert [result.id for result in reversed(results)] == [line["id"] for line in written]

    assert haechi(*command) == 0  # nothing new
    assert "0 judged: 0 OK, 0 REVIEW, 0 NG; 2 had been judged before" in capsys.readouterr().out
    rest(part(folder / "a.png", 0.9, seed=5), part(folder / "c.png", 0.0, seed=6))
    assert haechi(*command) == 0
    assert "2 judged: 1 OK, 0 REVIEW, 1 NG; 1 had been judged before" in capsys.readouterr().out
    assert sorted(path.name for path in folder.rglob("*.png")) == [".hidden.png", "a.png", "b.png", "c.png"]


def test_a_new_package_judges_the_same_pictures_anew(folder, package, tmp_path, capsys) -> None:
    rest(part(folder / "a.png"))
    assert haechi("inspection", "run", package, folder, "--once", "--interval", 0.05) == 0
    other = make_package(tmp_path / "tiny", gain=0.9)
    assert haechi("inspection", "run", other, folder, "--once", "--interval", 0.05) == 0
    assert capsys.readouterr().out.count("1 judged") == 2


def test_the_console_finds_the_pictures_of_a_run(folder, package, haechi_home) -> None:
    rest(part(folder / "a.png", 1.0))
    assert haechi("inspection", "run", package, folder, "--once", "--interval", 0.05) == 0
    with Records.open() as records:
        result = records.results()[0]
    kept = PictureStore(haechi_home / "pictures")
    assert kept.read(result.id, result.input_fingerprint, "picture") == (folder / "a.png").read_bytes()
    assert kept.read(result.id, result.input_fingerprint, "thumbnail.jpg")


def test_an_unreadable_picture_is_tried_again_then_named(folder, package, capsys) -> None:
    torn = folder / "torn.png"
    torn.write_bytes(part(folder / "whole.png").read_bytes()[:300])
    rest(torn, folder / "whole.png")
    assert haechi("inspection", "run", package, folder, "--once", "--interval", 0.05) == 2
    shown = capsys.readouterr()
    assert "1 judged: 1 OK" in shown.out
    assert shown.err.count("torn.png") == 1
    assert shown.err.splitlines()[-1].startswith("error: unreadable pictures in ")


def test_a_picture_is_not_judged_before_it_is_whole(folder, station) -> None:
    content = part(folder.parent / "source.png", 1.0).read_bytes()
    growing = folder / "growing.png"
    watched = Folder(folder)
    growing.write_bytes(content[:100])
    assert watched.look() == []
    with growing.open("ab") as handle:
        handle.write(content[100:200])
    assert watched.look() == []
    with growing.open("ab") as handle:
        handle.write(content[200:])
    assert watched.look() == []
    (arrival,) = watched.look()
    assert arrival.path.read_bytes() == content
    watched.settle(arrival)
    assert watched.look() == []
    assert watched.unsettled() == []


def test_a_picture_that_pauses_while_it_arrives_is_judged_once_whole(folder, station) -> None:
    """Half a file that rests is found unreadable; when the rest comes, it is judged."""
    content = part(folder.parent / "source.png", 1.0).read_bytes()
    said: list[str] = []
    at_work = station(say=lambda result: said.append(result.verdict))
    watched, stop = Folder(folder), threading.Event()
    (folder / "slow.png").write_bytes(content[: len(content) // 2])
    worker = threading.Thread(target=at_work.run, args=(watched, stop), kwargs={"interval": 0.02})
    worker.start()
    try:
        deadline = time.monotonic() + 30
        while not at_work.unreadable and time.monotonic() < deadline:
            time.sleep(0.01)
        assert at_work.unreadable == 1
        (folder / "slow.png").write_bytes(content)
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        stop.set()
        worker.join(30)
    assert said == ["NG"]


def test_a_folder_that_goes_away_is_waited_for(folder) -> None:
    watched = Folder(folder)
    rest(part(folder / "a.png"))
    (first,) = watched.look()
    watched.settle(first)
    away = folder.with_name("away")
    folder.rename(away)
    assert watched.look() == []
    away.rename(folder)
    rest(part(folder / "b.png"))
    assert [arrival.name for arrival in watched.look()] == ["b.png"]


def test_half_a_line_of_a_killed_process_does_not_spoil_the_next(tmp_path) -> None:
    lines = tmp_path / "new" / "lines.jsonl"
    append_line(lines, {"file": "a"})
    with lines.open("a") as handle:
        handle.write('{"file": "b')
    append_line(lines, {"file": "c"})
    assert lines.read_text().splitlines() == ['{"file": "a"}', '{"file": "b', '{"file": "c"}']


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_goes_on_until_it_is_told_to_stop(number, folder, package, tmp_path) -> None:
    lines = tmp_path / "lines.jsonl"
    command = [HAECHI, "inspection", "run", package, folder, "--interval", "0.05", "--json", lines, "--threads", "1"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        assert "watches" in running.stderr.readline()
        for number_of_part in range(2):
            part(folder / f"{number_of_part}.png", 0.9 * number_of_part, number_of_part)
            deadline = time.monotonic() + 60
            while not lines.exists() or len(lines.read_text().splitlines()) <= number_of_part:
                assert time.monotonic() < deadline
                assert running.poll() is None
                time.sleep(0.02)
        running.send_signal(number)
        out, error = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0, error
    assert out.splitlines()[-1] == "2 judged: 1 OK, 0 REVIEW, 1 NG"
    assert [json.loads(line)["verdict"] for line in lines.read_text().splitlines()] == ["OK", "NG"]


# -- train: what is refused before any work --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "patchcor"], "--model patchcor is unknown; did you mean patchcore?"),
        (["--max-overkill", "0.9"], "--max-overkill 0.9: Input should be less than 0.5."),
        (["--image-size", "250"], "--image-size 250: Input should be a multiple of 32."),
        (["--sign", "no.pem"], "no.pem"),
        (["--name", "Größe 3"], "--name 'Größe 3' cannot be used"),
        (["--version", "1/2"], "--version '1/2' cannot be used"),
    ],
)
def test_options_out_of_range_are_named(options, sentence, data, tmp_path, capsys) -> None:
    assert haechi("inspection", "train", data, "-o", tmp_path / "p", *options) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_only_a_package_or_an_empty_folder_is_replaced(data, package, tmp_path, capsys) -> None:
    (tmp_path / "notes.zip").write_text("my notes")
    for keep in (data, data / "test/good/0.png", tmp_path / "notes.zip"):
        assert haechi("inspection", "train", data, "-o", keep) == 2
        assert "is no model package" in capsys.readouterr().err
        assert keep.exists()
    assert haechi("inspection", "train", data, "-o", tmp_path / "notes.zip" / "package") == 2
    assert "is not a folder that can be written" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for may_go in (package, make_package(tmp_path / "p.zip"), tmp_path / "empty", tmp_path / "nothing"):
        check_places(may_go, run_folder(may_go), resume=True)
