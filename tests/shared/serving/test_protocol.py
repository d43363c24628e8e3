"""The Open Inference Protocol as a real Triton client speaks it to a real server."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from shared.manifest import DATATYPES
from tests.shared.serving.models import echo_inputs
from tests.shared.serving.served import Served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as made:
        yield made


def _input(name: str, array: np.ndarray, datatype: str, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def _echo_tensors(inputs: dict[str, np.ndarray], binary: bool) -> list[triton.InferInput]:
    return [_input(name, array, name.removeprefix("in_").upper(), binary) for name, array in inputs.items()]


def test_health_and_metadata(served: Served, client: triton.InferenceServerClient) -> None:
    headers = served.headers("viewer")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny", headers=headers)
    assert client.is_model_ready("tiny", "1.0.0", headers=headers)
    assert not client.is_model_ready("tiny", "9", headers=headers)
    assert not client.is_model_ready("unknown", headers=headers)
    server = client.get_server_metadata(headers=headers)
    assert server["name"] == "haechi"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("tiny", headers=headers)
    assert model["name"] == "tiny"
    assert model["versions"] == ["1.0.0"]
    assert model["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    assert [output["name"] for output in model["outputs"]] == ["score", "heatmap", "mask"]
    assert client.get_model_metadata("tiny", "1.0.0", headers=headers) == model


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_datatype_comes_back_as_it_went(
    served: Served, client: triton.InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    inputs = echo_inputs(3, 4, seed=1)
    outputs = [triton.InferRequestedOutput(f"out_{kind.lower()}", binary_data=binary_out) for kind in DATATYPES]
    result = client.infer("echo", _echo_tensors(inputs, binary_in), outputs=outputs, headers=served.headers())
    for name, sent in inputs.items():
        back = result.as_numpy(name.replace("in_", "out_"))
        if sent.dtype.kind == "O":
            texts = [item.decode() if isinstance(item, bytes) else item for item in back.ravel()]
            assert texts == sent.ravel().tolist()
        else:
            assert back.dtype == sent.dtype
            np.testing.assert_array_equal(back, sent)


def test_not_a_number_travels_in_binary_and_leaves_json_as_null(
    served: Served, client: triton.InferenceServerClient
) -> None:
    inputs = echo_inputs(1, 2)
    inputs["in_fp32"] = np.array([[np.nan, -np.inf]], dtype=np.float32)
    wanted = [triton.InferRequestedOutput("out_fp32", binary_data=binary) for binary in (True,)]
    result = client.infer("echo", _echo_tensors(inputs, True), outputs=wanted, headers=served.headers())
    np.testing.assert_array_equal(result.as_numpy("out_fp32"), inputs["in_fp32"])
    wanted = [triton.InferRequestedOutput("out_fp32", binary_data=False)]
    result = client.infer("echo", _echo_tensors(inputs, True), outputs=wanted, headers=served.headers())
    assert result.get_output("out_fp32")["data"] == [None, None]


def test_requested_outputs_order_id_and_version(served: Served, client: triton.InferenceServerClient) -> None:
    image = np.full((2, 8, 9, 3), 255, np.uint8)
    tensors = [
        _input("image", image, "UINT8", True),
        _input("pixel_threshold", np.array([0.5], np.float32), "FP32", False),
    ]
    outputs = [triton.InferRequestedOutput("mask"), triton.InferRequestedOutput("score", binary_data=False)]
    result = client.infer(
        "tiny", tensors, "1.0.0", outputs=outputs, request_id="part 7", headers=served.headers(), priority=1
    )
    response = result.get_response()
    assert response["id"] == "part 7"
    assert (response["model_name"], response["model_version"]) == ("tiny", "1.0.0")
    assert [output["name"] for output in response["outputs"]] == ["mask", "score"]
    np.testing.assert_allclose(result.as_numpy("score"), [1.0, 1.0], atol=1e-5)
    assert result.as_numpy("mask").shape == (2, 16, 16)
    assert result.as_numpy("mask").all()
    assert result.as_numpy("heatmap") is None


def test_all_outputs_in_binary_when_none_is_named(served: Served, client: triton.InferenceServerClient) -> None:
    result = client.infer("echo", _echo_tensors(echo_inputs(1, 1), True), headers=served.headers())
    outputs = result.get_response()["outputs"]
    assert len(outputs) == len(DATATYPES)
    assert all("binary_data_size" in output["parameters"] for output in outputs)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(served: Served, client: triton.InferenceServerClient, algorithm: str) -> None:
    inputs = echo_inputs(2, 2)
    result = client.infer(
        "echo", _echo_tensors(inputs, True), headers=served.headers(), request_compression_algorithm=algorithm
    )
    np.testing.assert_array_equal(result.as_numpy("out_int64"), inputs["in_int64"])


def test_async_requests_all_come_back(served: Served, client: triton.InferenceServerClient) -> None:
    handles = []
    for index in range(20):
        inputs = echo_inputs(1, 1)
        inputs["in_int32"] = np.array([[index]], np.int32)
        handles.append(client.async_infer("echo", _echo_tensors(inputs, True), headers=served.headers()))
    assert [int(handle.get_result().as_numpy("out_int32")[0, 0]) for handle in handles] == list(range(20))


def test_errors_reach_the_client_as_sentences(served: Served, client: triton.InferenceServerClient) -> None:
    image = _input("image", np.zeros((1, 4, 4, 3), np.uint8), "UINT8", True)
    threshold = _input("pixel_threshold", np.zeros(1, np.float32), "FP32", True)
    cases = [
        ("unknown", "", [image], "404", "unknown is unknown"),
        ("tiny", "7", [image], "404", "no version 7"),
        ("tiny", "", [image], "400", "input pixel_threshold is missing"),
        ("tiny", "", [image, threshold, threshold], "400", "twice"),
        ("tiny", "", [_input("image", np.zeros((4, 4, 3), np.uint8), "UINT8", True), threshold], "400", "shape"),
        ("tiny", "", [_input("image", np.zeros((1, 4, 4, 3), np.int8), "INT8", True), threshold], "400", "UINT8"),
    ]
    for model, version, tensors, status, words in cases:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, tensors, version, headers=served.headers())
        assert caught.value.status() == status
        assert words in caught.value.message()
    wanted = [triton.InferRequestedOutput("other")]
    with pytest.raises(InferenceServerException, match="output other is unknown") as caught:
        client.infer("tiny", [image, threshold], outputs=wanted, headers=served.headers())
    assert caught.value.status() == "400"


def test_what_is_not_there_is_501(served: Served, client: triton.InferenceServerClient) -> None:
    image = _input("image", np.zeros((1, 4, 4, 3), np.uint8), "UINT8", True)
    threshold = _input("pixel_threshold", np.zeros(1, np.float32), "FP32", True)
    headers = served.headers("engineer")
    shared = triton.InferInput("image", [1, 4, 4, 3], "UINT8")
    shared.set_shared_memory("region", 48)
    calls: list[Callable[[], object]] = [
        lambda: client.infer("tiny", [shared, threshold], headers=headers),
        lambda: client.infer("tiny", [image, threshold], sequence_id=7, sequence_start=True, headers=headers),
        lambda: client.get_system_shared_memory_status(headers=headers),
        lambda: client.register_system_shared_memory("region", "/key", 48, headers=headers),
        lambda: client.unregister_cuda_shared_memory("region", headers=headers),
        lambda: client.get_trace_settings("tiny", headers=headers),
        lambda: client.update_log_settings({"log_info": True}, headers=headers),
        lambda: client.load_model("tiny", config="{}", headers=headers),
        lambda: client.load_model("tiny", config="{}", files={"file:1/model.onnx": b"x"}, headers=headers),
    ]
    for call in calls:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "501", caught.value.message()


def test_classification(served: Served, client: triton.InferenceServerClient) -> None:
    values = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], np.float32)
    inputs = _echo_tensors(echo_inputs(2, 3) | {"in_fp32": values}, True)
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput("out_fp32", binary_data=binary, class_count=2)]
        result = client.infer("echo", inputs, outputs=outputs, headers=served.headers())
        texts = [each.decode() if isinstance(each, bytes) else each for each in result.as_numpy("out_fp32").ravel()]
        assert texts == ["0.700000:1", "0.200000:2", "0.500000:0", "0.250000:1"]
        assert result.get_output("out_fp32")["shape"] == [2, 2]
    tiny = [
        _input("image", np.full((1, 4, 4, 3), 255, np.uint8), "UINT8", True),
        _input("pixel_threshold", np.zeros(1, np.float32), "FP32", True),
    ]
    outputs = [triton.InferRequestedOutput("score", class_count=5), triton.InferRequestedOutput("mask", class_count=1)]
    result = client.infer("tiny", tiny, outputs=outputs, headers=served.headers())
    assert result.as_numpy("score").tolist() == [b"1.000000:0"]  # two labels, one value: no label
    assert result.as_numpy("mask").tolist() == [b"1:0"]
    outputs = [triton.InferRequestedOutput("out_bool", class_count=1)]
    with pytest.raises(InferenceServerException, match="needs numbers"):
        client.infer("echo", inputs, outputs=outputs, headers=served.headers())


def test_empty_tensors_pass_where_the_model_takes_them(served: Served, client: triton.InferenceServerClient) -> None:
    for shape in ((0, 3), (3, 0)):
        for binary in (True, False):
            inputs = {name: array.ravel()[:0].reshape(shape) for name, array in echo_inputs(1, 1).items()}
            result = client.infer("echo", _echo_tensors(inputs, binary), headers=served.headers())
            assert {
                output["name"] for output in result.get_response()["outputs"] if output["shape"] == list(shape)
            } == {f"out_{kind.lower()}" for kind in DATATYPES}
    # ONNX Runtime itself refuses to enlarge a picture of no pixels: the client's mistake, not the server's.
    tiny = [
        _input("image", np.zeros((1, 0, 4, 3), np.uint8), "UINT8", True),
        _input("pixel_threshold", np.zeros(1, np.float32), "FP32", True),
    ]
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tiny", tiny, headers=served.headers())
    assert caught.value.status() == "400"
    assert client.is_model_ready("tiny", headers=served.headers())


def test_configuration_as_triton_has_it(served: Served, client: triton.InferenceServerClient) -> None:
    headers = served.headers("viewer")
    tiny = client.get_model_config("tiny", headers=headers)
    assert (tiny["name"], tiny["platform"], tiny["max_batch_size"]) == ("tiny", "onnxruntime_onnx", 0)
    assert tiny["input"][0] == {
        "name": "image",
        "data_type": "TYPE_UINT8",
        "dims": [-1, -1, -1, 3],
        "format": "FORMAT_NONE",
    }
    assert [(each["name"], each["dims"]) for each in tiny["output"]][:2] == [("score", [-1]), ("heatmap", [-1, 16, 16])]
    assert tiny["instance_group"][0]["kind"] in ("KIND_CPU", "KIND_AUTO")
    echo = client.get_model_config("echo", "1", headers=headers)
    assert echo["max_batch_size"] >= 1
    types = {each["name"]: (each["data_type"], each["dims"]) for each in echo["input"]}
    assert types["in_fp16"] == ("TYPE_FP16", [-1])
    assert types["in_bytes"] == ("TYPE_STRING", [-1])
    picky = client.get_model_config("picky", headers=headers)
    assert (picky["input"][0]["dims"], picky["input"][0]["reshape"]) == ([1], {"shape": []})
    with pytest.raises(InferenceServerException, match="unknown"):
        client.get_model_config("nothing", headers=headers)


def test_plain_json_nested_without_content_type(served: Served) -> None:
    body = {
        "inputs": [
            {
                "name": "image",
                "shape": [1, 1, 2, 3],
                "datatype": "UINT8",
                "data": [[[[255, 255, 255], [255, 255, 255]]]],
            },
            {"name": "pixel_threshold", "shape": [1], "datatype": "FP32", "data": [1]},
        ],
        "outputs": [{"name": "score"}],
    }
    with served.client() as client:
        answer = client.post("/v2/models/tiny/infer", content=json.dumps(body).encode())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in answer.headers
    assert "id" not in answer.json()
    output = answer.json()["outputs"][0]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP32", [1])
    assert output["data"] == pytest.approx([1.0], abs=1e-5)


def test_large_json_tensors_both_ways(served: Served, client: triton.InferenceServerClient) -> None:
    inputs = echo_inputs(60, 200)
    wanted = [triton.InferRequestedOutput(f"out_{kind}", binary_data=False) for kind in ("fp64", "bytes")]
    result = client.infer("echo", _echo_tensors(inputs, False), outputs=wanted, headers=served.headers())
    np.testing.assert_array_equal(result.as_numpy("out_fp64"), inputs["in_fp64"])
    assert result.as_numpy("out_bytes").tolist() == inputs["in_bytes"].tolist()


def test_text_model_refuses_bytes_that_are_no_text(served: Served, client: triton.InferenceServerClient) -> None:
    inputs = echo_inputs(1, 1)
    inputs["in_bytes"] = np.array([[b"\xff\xfe"]], dtype=object)
    with pytest.raises(InferenceServerException, match="not UTF-8"):
        client.infer("echo", _echo_tensors(inputs, True), headers=served.headers())


def test_wrong_paths_and_methods_are_json_errors(served: Served) -> None:
    with served.client("admin") as client:
        for method, path, status in (
            ("GET", "/v2/models/tiny/infer", 405),
            ("POST", "/v2/models/tiny", 405),
            ("GET", "/v3", 404),
            ("GET", "/v2/models/a%2Fb", 404),
            ("GET", "/v2/models/tiny/versions/%00", 404),
        ):
            answer = client.request(method, path)
            assert answer.status_code == status, path
            assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(b" " * (70 << 20)), 413),  # a bomb: 70 MB out of 68 kB
        ("gzip", b"not gzip", 400),
        ("deflate", zlib.compress(b"{}")[:-3], 400),
        ("br", b"{}", 415),
        ("gzip", gzip.compress(b"[1,"), 400),
    ],
)
def test_content_encoding_is_bounded_and_checked(served: Served, encoding: str, body: bytes, status: int) -> None:
    with served.client() as client:
        answer = client.post("/v2/models/tiny/infer", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
