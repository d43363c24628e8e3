"""The REST face, as tritonclient speaks to it, plainly and with asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.conformance.conftest import need
from tests.conformance.target import DATATYPES, Target, arrays_for, fits, same

Client = triton.InferenceServerClient
Metadata = dict[str, Any]


def tensors(metadata: Metadata, arrays: dict[str, np.ndarray], binary: bool = True) -> list[triton.InferInput]:
    kinds = {entry["name"]: entry["datatype"] for entry in metadata["inputs"]}
    made = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), kinds[name])
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


def _answers(result: triton.InferResult, metadata: Metadata) -> dict[str, np.ndarray]:
    found = {entry["name"]: result.as_numpy(entry["name"]) for entry in metadata["outputs"]}
    assert all(array is not None for array in found.values())
    return found


def test_health(target: Target, http: Client) -> None:
    assert http.is_server_live()
    assert http.is_server_ready()
    assert http.is_model_ready(target.model, headers=target.headers)
    assert not http.is_model_ready("no-such-model", headers=target.headers)


def test_server_metadata(target: Target, http: Client) -> None:
    found = http.get_server_metadata(headers=target.headers)
    assert all(isinstance(found[key], str) and found[key] for key in ("name", "version"))
    assert all(isinstance(each, str) for each in found["extensions"])


def test_model_metadata(target: Target, metadata: Metadata) -> None:
    assert metadata["name"] == target.model
    assert isinstance(metadata["platform"], str)
    for entry in metadata["inputs"] + metadata["outputs"]:
        assert entry["name"]
        assert entry["datatype"] in DATATYPES
        assert all(isinstance(extent, int) and extent >= -1 for extent in entry["shape"])


def test_each_version_is_ready_and_described(target: Target, http: Client, metadata: Metadata) -> None:
    for version in metadata.get("versions", []):
        assert http.is_model_ready(target.model, version, headers=target.headers)
        described = http.get_model_metadata(target.model, version, headers=target.headers)
        assert described["name"] == target.model
    assert not http.is_model_ready(target.model, "98765", headers=target.headers)


def test_binary_inference_gives_what_the_metadata_promises(
    target: Target, http: Client, metadata: Metadata, extensions: set[str]
) -> None:
    need(extensions, "binary_tensor_data")
    result = http.infer(
        target.model, tensors(metadata, arrays_for(metadata["inputs"])), request_id="id 7", headers=target.headers
    )
    response = result.get_response()
    assert response["id"] == "id 7"
    assert response["model_name"] == target.model
    outputs = {entry["name"]: entry for entry in response["outputs"]}
    assert outputs.keys() == {entry["name"] for entry in metadata["outputs"]}
    for entry in metadata["outputs"]:
        assert outputs[entry["name"]]["datatype"] == entry["datatype"]
        assert fits(outputs[entry["name"]]["shape"], entry["shape"])
    assert all(array.size for array in _answers(result, metadata).values())


def test_json_and_binary_give_the_same(target: Target, http: Client, metadata: Metadata, extensions: set[str]) -> None:
    need(extensions, "binary_tensor_data")
    arrays = arrays_for(metadata["inputs"], seed=1)
    half = {entry["name"] for entry in metadata["inputs"] if entry["datatype"] in ("FP16", "BF16")}
    outputs = [
        triton.InferRequestedOutput(entry["name"], binary_data=entry["datatype"] in ("FP16", "BF16"))
        for entry in metadata["outputs"]
    ]
    in_json = tensors(metadata, {name: array for name, array in arrays.items() if name not in half}, binary=False)
    in_binary = tensors(metadata, {name: array for name, array in arrays.items() if name in half})  # JSON has no half
    plain = http.infer(target.model, in_json + in_binary, outputs=outputs, headers=target.headers)
    binary = http.infer(target.model, tensors(metadata, arrays), headers=target.headers)
    first, second = _answers(plain, metadata), _answers(binary, metadata)
    assert all(same(first[name], second[name]) for name in first)


def test_requested_outputs_alone_leave(target: Target, http: Client, metadata: Metadata) -> None:
    wanted = metadata["outputs"][-1]["name"]
    result = http.infer(
        target.model,
        tensors(metadata, arrays_for(metadata["inputs"])),
        outputs=[triton.InferRequestedOutput(wanted)],
        headers=target.headers,
    )
    assert [entry["name"] for entry in result.get_response()["outputs"]] == [wanted]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(target: Target, http: Client, metadata: Metadata, algorithm: str) -> None:
    sent = tensors(metadata, arrays_for(metadata["inputs"]))
    plain = http.infer(target.model, sent, headers=target.headers)
    packed = http.infer(target.model, sent, request_compression_algorithm=algorithm, headers=target.headers)
    first, second = _answers(plain, metadata), _answers(packed, metadata)
    assert all(same(first[name], second[name]) for name in first)


def test_what_is_wrong_is_refused(target: Target, http: Client, metadata: Metadata) -> None:
    good = tensors(metadata, arrays_for(metadata["inputs"]))
    first = metadata["inputs"][0]
    other = "INT8" if first["datatype"] != "INT8" else "UINT8"
    wrong_kind = triton.InferInput(first["name"], [1] * len(first["shape"]), other)
    wrong_kind.set_data_from_numpy(np.zeros([1] * len(first["shape"]), np.int8 if other == "INT8" else np.uint8))
    too_flat = triton.InferInput(first["name"], [1] * (len(first["shape"]) + 3), other)
    too_flat.set_data_from_numpy(np.zeros([1] * (len(first["shape"]) + 3), np.int8 if other == "INT8" else np.uint8))
    stranger = triton.InferInput("no_such_input", [1], "FP32")
    stranger.set_data_from_numpy(np.zeros(1, np.float32))
    refused: list[tuple[str, str, list[Any], list[Any] | None, set[str]]] = [
        ("no-such-model", "", good, None, {"400", "404"}),
        (target.model, "98765", good, None, {"400", "404"}),
        (target.model, "", [wrong_kind, *good[1:]], None, {"400"}),
        (target.model, "", [too_flat, *good[1:]], None, {"400"}),
        (target.model, "", [*good, stranger], None, {"400"}),
        (target.model, "", good, [triton.InferRequestedOutput("no_such_output")], {"400"}),
    ]
    for model, version, sent, outputs, statuses in refused:
        with pytest.raises(InferenceServerException) as caught:
            http.infer(model, sent, version, outputs=outputs, headers=target.headers)
        assert caught.value.status() in statuses, caught.value
        assert caught.value.message()
    assert http.infer(target.model, good, headers=target.headers).get_response()["outputs"]


def test_many_at_once(target: Target, http: Client, metadata: Metadata) -> None:
    seeds = range(12)
    sent = [tensors(metadata, arrays_for(metadata["inputs"], seed)) for seed in seeds]
    alone = [_answers(http.infer(target.model, each, headers=target.headers), metadata) for each in sent]

    async def together() -> list[triton.InferResult]:
        async with triton_aio.InferenceServerClient(target.http) as client:
            assert await client.is_server_ready()
            return list(
                await asyncio.gather(*(client.infer(target.model, each, headers=target.headers) for each in sent))
            )

    for result, expected in zip(asyncio.run(together()), alone, strict=True):
        found = _answers(result, metadata)
        assert all(same(found[name], expected[name]) for name in expected)


def test_statistics(target: Target, http: Client, metadata: Metadata, extensions: set[str]) -> None:
    need(extensions, "statistics")

    def counted() -> int:
        rows = http.get_inference_statistics(target.model, headers=target.headers)["model_stats"]
        return sum(int(row["inference_stats"]["success"]["count"]) for row in rows)

    before = counted()
    for _ in range(3):
        http.infer(target.model, tensors(metadata, arrays_for(metadata["inputs"])), headers=target.headers)
    assert counted() == before + 3


def test_repository_index(target: Target, http: Client, extensions: set[str]) -> None:
    need(extensions, "model_repository")
    rows = http.get_model_repository_index(headers=target.headers)
    assert any(row["name"] == target.model and row.get("state") == "READY" for row in rows)


def test_configuration(target: Target, http: Client, metadata: Metadata, extensions: set[str]) -> None:
    need(extensions, "model_configuration")
    config = http.get_model_config(target.model, headers=target.headers)
    assert config["name"] == target.model
    batched = config.get("max_batch_size", 0) > 0
    declared = {entry["name"]: entry for entry in metadata["inputs"]}
    assert {entry["name"] for entry in config["input"]} == declared.keys()
    for entry in config["input"]:
        kind = "STRING" if declared[entry["name"]]["datatype"] == "BYTES" else declared[entry["name"]]["datatype"]
        assert entry["data_type"] == f"TYPE_{kind}"
        dims = [int(n) for n in entry.get("reshape", {}).get("shape", entry["dims"])]
        assert ([-1] if batched else []) + dims == [int(n) for n in declared[entry["name"]]["shape"]]


def test_classification(target: Target, http: Client, metadata: Metadata, extensions: set[str]) -> None:
    need(extensions, "classification")
    numbers = [entry["name"] for entry in metadata["outputs"] if entry["datatype"] in ("FP32", "INT32", "INT64")]
    if not numbers:
        pytest.skip("the model has no output to classify")
    result = http.infer(
        target.model,
        tensors(metadata, arrays_for(metadata["inputs"])),
        outputs=[triton.InferRequestedOutput(numbers[0], class_count=1)],
        headers=target.headers,
    )
    (entry,) = result.get_response()["outputs"]
    assert entry["datatype"] == "BYTES"
    for text in result.as_numpy(numbers[0]).ravel():
        value, place = text.decode().split(":")[:2]
        assert np.isfinite(float(value))
        assert int(place) >= 0
