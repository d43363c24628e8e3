"""The gRPC face, as tritonclient speaks to it: it must say what the REST face says."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.conformance.conftest import need
from tests.conformance.target import Target, arrays_for, same
from tests.conformance.test_rest import tensors as rest_tensors

Client = triton.InferenceServerClient
Metadata = dict[str, Any]
SOON = 30.0


def _tensors(metadata: Metadata, arrays: dict[str, np.ndarray]) -> list[triton.InferInput]:
    kinds = {entry["name"]: entry["datatype"] for entry in metadata["inputs"]}
    made = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), kinds[name])
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def test_health_and_metadata_agree_with_rest(target: Target, grpc: Client, metadata: Metadata) -> None:
    headers = target.headers
    assert grpc.is_server_live()
    assert grpc.is_server_ready()
    assert grpc.is_model_ready(target.model, headers=headers)
    assert grpc.get_server_metadata(headers=headers).name
    found = grpc.get_model_metadata(target.model, headers=headers)
    for kind in ("inputs", "outputs"):
        assert [
            {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in getattr(found, kind)
        ] == metadata[kind]


def test_inference_agrees_with_rest(
    target: Target, grpc: Client, http: triton_http.InferenceServerClient, metadata: Metadata
) -> None:
    arrays = arrays_for(metadata["inputs"], seed=2)
    result = grpc.infer(target.model, _tensors(metadata, arrays), request_id="id 8", headers=target.headers)
    response = result.get_response()
    assert (response.id, response.model_name) == ("id 8", target.model)
    rest = http.infer(target.model, rest_tensors(metadata, arrays), headers=target.headers)
    for entry in metadata["outputs"]:
        assert same(result.as_numpy(entry["name"]), rest.as_numpy(entry["name"])), entry["name"]
    wanted = metadata["outputs"][-1]["name"]
    alone = grpc.infer(
        target.model,
        _tensors(metadata, arrays),
        outputs=[triton.InferRequestedOutput(wanted)],
        headers=target.headers,
    )
    assert [each.name for each in alone.get_response().outputs] == [wanted]


def test_what_is_wrong_is_refused(target: Target, grpc: Client, metadata: Metadata) -> None:
    headers, good = target.headers, _tensors(metadata, arrays_for(metadata["inputs"]))
    stranger = triton.InferInput("no_such_input", [1], "FP32")
    stranger.set_data_from_numpy(np.zeros(1, np.float32))
    for model, version, sent, outputs, codes in (
        ("no-such-model", "", good, None, {"NOT_FOUND", "INVALID_ARGUMENT"}),
        (target.model, "98765", good, None, {"NOT_FOUND", "INVALID_ARGUMENT"}),
        (target.model, "", [*good, stranger], None, {"INVALID_ARGUMENT"}),
        (target.model, "", good, [triton.InferRequestedOutput("no_such_output")], {"INVALID_ARGUMENT"}),
    ):
        with pytest.raises(InferenceServerException) as caught:
            grpc.infer(model, sent, version, outputs=outputs, headers=headers)
        assert caught.value.status().removeprefix("StatusCode.") in codes
        assert caught.value.message()


def test_asyncio_and_streams_give_the_same(target: Target, grpc: Client, metadata: Metadata) -> None:
    headers = target.headers
    sent = [_tensors(metadata, arrays_for(metadata["inputs"], seed)) for seed in range(6)]
    alone = [grpc.infer(target.model, each, headers=headers) for each in sent]

    async def together() -> list[triton.InferResult]:
        assert target.grpc is not None
        async with triton_aio.InferenceServerClient(target.grpc) as client:
            return list(await asyncio.gather(*(client.infer(target.model, each, headers=headers) for each in sent)))

    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(target.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
        for number, each in enumerate(sent):
            client.async_stream_infer(target.model, each, request_id=str(number))
        streamed: dict[str, triton.InferResult] = {}
        for _ in sent:
            result, error = answers.get(timeout=SOON)
            assert error is None
            streamed[result.get_response().id] = result
        client.stop_stream()
    for number, (aio, expected) in enumerate(zip(asyncio.run(together()), alone, strict=True)):
        for entry in metadata["outputs"]:
            wanted = expected.as_numpy(entry["name"])
            assert same(aio.as_numpy(entry["name"]), wanted)
            assert same(streamed[str(number)].as_numpy(entry["name"]), wanted)


def test_extensions(target: Target, grpc: Client, metadata: Metadata, extensions: set[str]) -> None:
    headers = target.headers
    need(extensions, "statistics")
    (row, *_) = grpc.get_inference_statistics(target.model, headers=headers).model_stats
    assert row.name == target.model
    assert row.inference_stats.success.count > 0
    need(extensions, "model_configuration")
    assert grpc.get_model_config(target.model, headers=headers).config.name == target.model
    need(extensions, "model_repository")
    rows = grpc.get_model_repository_index(headers=headers).models
    assert any(each.name == target.model and each.state == "READY" for each in rows)
