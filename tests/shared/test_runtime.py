"""The runtime: models answer as ONNX Runtime does, wrong inputs and wrong models are named, nothing is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shared import runtime, settings
from shared.errors import BadInput, HaechiError, PackageRefused
from shared.manifest import GoldenTolerance
from shared.package import Golden, Manifest, TensorSpec, open_package, write_package
from tests.shared.packages import make_manifest, make_model, make_package, run_model

PIXEL = np.array([0.6], np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("runtime") / "p")


@pytest.fixture(scope="module")
def model(path: Path) -> runtime.Model:
    return runtime.load(path, "cpu")


def test_answers_as_onnx_runtime_does(model: runtime.Model) -> None:
    for shape in ((1, 5, 7, 3), (4, 64, 48, 3)):
        image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        got = model.run({"pixel_threshold": PIXEL, "image": image})
        expected = run_model(make_model(), {"image": image, "pixel_threshold": PIXEL})
        assert list(got) == ["score", "heatmap", "mask"]
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-6)


def test_reports_what_is_in_use(path: Path, model: runtime.Model) -> None:
    assert model.provider == "CPUExecutionProvider"
    assert model.manifest.name == "tiny"
    assert model.package.path == path
    assert runtime.load(path, threads=1).threads == 1
    assert runtime.load(open_package(path), "CPUExecutionProvider").provider == "CPUExecutionProvider"


def test_views_that_are_not_contiguous_are_fine(model: runtime.Model) -> None:
    image = np.random.default_rng(2).integers(0, 256, (3, 20, 20, 1), dtype=np.uint8)
    flipped = image.transpose(3, 2, 1, 0)[:, ::-1]
    got = model.run({"image": flipped, "pixel_threshold": PIXEL})
    expected = model.run({"image": flipped.copy(), "pixel_threshold": PIXEL})
    np.testing.assert_array_equal(got["heatmap"], expected["heatmap"])


GOOD = np.zeros((1, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"image": GOOD}, r"input pixel_threshold of model tiny is missing; give FP32 of shape \[1\]"),
        ({"imag": GOOD, "pixel_threshold": PIXEL}, r"no input imag; did you mean image\?"),
        ({"image": GOOD, "pixel_threshold": PIXEL, "qqq": PIXEL}, r"no input qqq; it takes image, pixel_threshold"),
        ({"image": GOOD.astype(np.float32), "pixel_threshold": PIXEL}, r"image of model tiny must be UINT8 .*float32"),
        ({"image": GOOD[0], "pixel_threshold": PIXEL}, r"image of model tiny must have 4 dimensions.*not 3"),
        ({"image": GOOD[..., :1], "pixel_threshold": PIXEL}, r"must have the shape \[-1, -1, -1, 3\]"),
        ({"image": GOOD, "pixel_threshold": np.zeros(2, np.float32)}, r"pixel_threshold .* shape \[1\]"),
        ({"image": GOOD, "pixel_threshold": PIXEL.astype(">f4")}, r"must be FP32 \(float32\), not >f4"),
        ({"image": GOOD.tolist(), "pixel_threshold": PIXEL}, r"must be a numpy array, not list"),
    ],
)
def test_wrong_inputs_are_named(model: runtime.Model, inputs: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        model.run(inputs)


def test_what_the_model_cannot_compute_is_an_error_with_the_shapes(
    model: runtime.Model, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HaechiError, match=r"failed on image \[1, 0, 4, 3\]"):
        model.run({"image": np.zeros((1, 0, 4, 3), np.uint8), "pixel_threshold": PIXEL})
    assert capfd.readouterr() == ("", "")


def test_many_threads_at_once(model: runtime.Model) -> None:
    failures: list[str] = []

    def work(level: int) -> None:
        image = np.full((1, 16, 16, 3), level, np.uint8)
        for _ in range(30):
            score = float(model.run({"image": image, "pixel_threshold": PIXEL})["score"][0])
            if abs(score - level / 255) > 1e-5:
                failures.append(f"{level}: {score}")

    threads = [threading.Thread(target=work, args=(level,)) for level in range(0, 256, 32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- refusals at load -------------------------------------------------------------------------------------------------


def test_failing_self_test_is_refused(tmp_path: Path) -> None:
    path = make_package(tmp_path / "p", wrong_golden=True)
    with pytest.raises(PackageRefused, match=r"fails its self-test on CPUExecutionProvider: score differs .* by 0\.25"):
        runtime.load(path)
    assert runtime.load(path, self_test=False).manifest.name == "tiny"


def test_damaged_package_is_refused(tmp_path: Path) -> None:
    path = make_package(tmp_path / "p")
    os.truncate(path / "model.onnx", 10)
    with pytest.raises(PackageRefused, match="cut short"):
        runtime.load(path)


def write(path: Path, model: bytes, change: Callable[[Manifest], object] = lambda m: None) -> Path:
    manifest = make_manifest()
    change(manifest)
    inputs: dict[str, np.ndarray] = {"image": GOOD, "pixel_threshold": PIXEL}
    outputs = run_model(make_model(), inputs)
    names = {spec.name: spec for spec in manifest.outputs}
    golden = Golden(inputs, {name: outputs.get(name, np.zeros(1, np.float32)) for name in names})
    write_package(path, manifest, model, golden)
    return path


def test_bytes_that_are_no_model_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PackageRefused, match="its model cannot be loaded"):
        runtime.load(write(tmp_path / "p", b"not a model"))
    assert capfd.readouterr() == ("", "")


def test_manifest_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    def rename(manifest: Manifest) -> None:
        manifest.outputs[0] = TensorSpec(name="skore", datatype="FP32", shape=[-1])

    with pytest.raises(PackageRefused, match="its model has no output skore, which its manifest declares"):
        runtime.load(write(tmp_path / "a", make_model(), rename))
    other = onnx.load_from_string(make_model())
    other.graph.input.append(helper.make_tensor_value_info("secret", TensorProto.FLOAT, [1]))
    with pytest.raises(PackageRefused, match="has the input secret, which its manifest does not declare"):
        runtime.load(write(tmp_path / "b", other.SerializeToString()))
    with pytest.raises(PackageRefused, match=r"output heatmap of its model has the shape \['n', 8, 8\]"):
        runtime.load(write(tmp_path / "c", make_model(size=8)))


@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "{folder}/secret.bin"])
def test_model_cannot_read_files_by_naming_them_as_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location.format(folder=tmp_path))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    manifest = make_manifest()
    manifest.inputs = [TensorSpec(name="x", datatype="FP32", shape=[4])]
    manifest.outputs = [TensorSpec(name="y", datatype="FP32", shape=[4])]
    zeros = np.zeros(4, np.float32)
    write_package(tmp_path / "p", manifest, model.SerializeToString(), Golden({"x": zeros}, {"y": zeros + 1}))
    with pytest.raises(PackageRefused, match="its model cannot be loaded"):
        runtime.load(tmp_path / "p")


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"])],
        "g",
        [value("text", TensorProto.STRING, ["n"])],
        [value("same", TensorProto.STRING, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    manifest = make_manifest()
    manifest.inputs = [TensorSpec(name="text", datatype="BYTES", shape=[-1])]
    manifest.outputs = [TensorSpec(name="same", datatype="BYTES", shape=[-1])]
    said = np.array(["해치", "guardian"], dtype=object)
    write_package(tmp_path / "p", manifest, model.SerializeToString(), Golden({"text": said}, {"same": said}))
    loaded = runtime.load(tmp_path / "p")
    for given in (said, said.astype(str), np.char.encode(said.astype(str), "utf-8")):
        assert loaded.run({"text": given})["same"].tolist() == said.tolist()
    with pytest.raises(BadInput, match="input text is not UTF-8"):
        loaded.run({"text": np.array([b"\xff"])})


# --- providers and threads --------------------------------------------------------------------------------------------


def test_unknown_provider_lists_those_there_are(path: Path) -> None:
    with pytest.raises(BadInput, match=r"provider cudaa is not one of auto, .*cpu"):
        runtime.load(path, "cudaa")


@pytest.mark.skipif(runtime.cuda_problem() is None, reason="this machine has a GPU that works")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "CUDAExecutionProvider"])
def test_a_gpu_demanded_where_there_is_none_is_bad_input(
    path: Path, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match=f"provider {provider} (cannot be used here|is not one of)"):
        runtime.load(path, provider)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(runtime.cuda_problem() is not None, reason=f"no GPU here: {runtime.cuda_problem()}")
def test_auto_takes_a_gpu_that_works(path: Path) -> None:
    assert runtime.load(path).provider in ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert runtime.load(path, "cuda").provider == "CUDAExecutionProvider"


def test_a_fresh_process_prints_nothing(path: Path) -> None:
    """ONNX Runtime likes to warn about GPUs a machine does not have."""
    code = "import sys; from shared import runtime; runtime.load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    if runtime.cuda_problem() is not None:
        assert (done.stdout, done.stderr) == ("", "")


def test_only_the_unwanted_lines_of_native_code_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with runtime._without_lines("device_discovery.cc"):
        os.write(2, b"[W:onnxruntime, device_discovery.cc:164] GPU device discovery failed\nkept\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "kept\nafter\n"


def test_threads_by_setting_and_affinity(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= runtime.default_threads() <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("HAECHI_THREADS", "3")
    settings.load.cache_clear()
    assert runtime.load(path).threads == 3
    with pytest.raises(BadInput, match="threads must be 1 or more"):
        runtime.load(path, threads=0)


# --- tolerance --------------------------------------------------------------------------------------------------------

TOLERANCE = GoldenTolerance(atol=0.1, rtol=0.0, mismatch=0.5)


@pytest.mark.parametrize(
    ("expected", "got", "reason"),
    [
        (np.zeros(2, np.float32), np.full(2, 0.09, np.float32), None),
        (np.zeros(2, np.float32), np.full(2, 0.2, np.float32), r"x differs from the golden output by 0\.2"),
        (np.zeros(2, np.float32), np.array([np.nan, 0], np.float32), "not a number"),
        (np.zeros(2, np.float32), np.array([np.inf, 0], np.float32), "not a number"),
        (np.zeros(2, np.float32), np.zeros(3, np.float32), r"shape \[3\] and not \[2\]"),
        (np.zeros(2, np.float32), np.zeros(2, np.float64), "is float64 and not float32"),
        (np.zeros(4, np.uint8), np.array([0, 0, 1, 1], np.uint8), None),
        (np.zeros(4, np.uint8), np.array([0, 1, 1, 1], np.uint8), r"75\.00% of x differ"),
        (np.zeros(0, np.uint8), np.zeros(0, np.uint8), None),
        (np.array(["a", "b"]), np.array(["abc", "bcd"], object), r"100\.00% of x differ"),
        (np.array([True]), np.array([False]), r"100\.00%"),
    ],
)
def test_tolerance(expected: np.ndarray, got: np.ndarray, reason: str | None) -> None:
    problem = runtime.tolerance_problem("x", expected, got, TOLERANCE)
    if reason is None:
        assert problem is None
    else:
        assert re.search(reason, problem or "")


def test_nothing_is_reported_and_nothing_left_in_the_users_home(path: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = f"from shared import runtime; runtime.load({str(path)!r}, 'cpu', 1)"
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "HAECHI_HOME": str(home / "haechi")}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True, timeout=120)
    assert [file for file in home.rglob("*") if file.is_file() and "haechi" not in file.parts] == []
