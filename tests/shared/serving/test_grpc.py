"""`GRPCInferenceService` as tritonclient, and the bare service's stub, speak it to a real server."""

from __future__ import annotations

import asyncio
import os
import queue
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from shared.errors import BadInput
from shared.manifest import DATATYPES
from shared.serving.keys import KEYS_FILE, KeyStore
from shared.serving.limits import Limits
from shared.serving.rpc import messages
from shared.serving.rpc.server import choose
from tests.shared.packages import make_package
from tests.shared.serving.certificates import make_certificate
from tests.shared.serving.models import echo_inputs
from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]
SOON = 30.0


def _address(served: Served) -> str:
    return f"127.0.0.1:{served.state.grpc_port}"


@pytest.fixture(scope="module")
def served(serve: Serve) -> Iterator[Served]:
    with serve(grpc="127.0.0.1:0") as made:
        yield made


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(_address(served)) as made:
        yield made


@pytest.fixture(scope="module")
def stub(served: Served) -> Iterator[Any]:
    """The bare service, for what tritonclient never sends."""
    with grpc.insecure_channel(_address(served)) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def _key(served: Served, role: str = "operator") -> dict[str, str]:
    return {"x-api-key": served.keys[role]}


def _metadata(served: Served, role: str = "operator") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {served.keys[role]}"),)


def _echo_tensors(inputs: dict[str, np.ndarray]) -> list[triton.InferInput]:
    tensors = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), name.removeprefix("in_").upper())
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _index(*values: int) -> list[triton.InferInput]:
    tensor = triton.InferInput("index", [len(values)], "INT64")
    tensor.set_data_from_numpy(np.array(values, np.int64))
    return [tensor]


def _steps(count: int) -> list[triton.InferInput]:
    tensor = triton.InferInput("steps", [1], "INT64")
    tensor.set_data_from_numpy(np.array([count], np.int64))
    return [tensor]


def test_the_compiled_definition_is_that_of_the_source(tmp_path: Path) -> None:
    source = resources.files("shared.serving.rpc").joinpath("inference.proto")
    compiled = tmp_path / "compiled"
    arguments = ["protoc", f"-I{Path(str(source)).parent}", f"--descriptor_set_out={compiled}", str(source)]
    assert protoc.main(arguments) == 0
    content = resources.files("shared.serving.rpc").joinpath(messages.DESCRIPTORS).read_bytes()
    found = descriptor_pb2.FileDescriptorSet.FromString(content)
    assert found == descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()), "run `make proto`"


def test_names_and_numbers_are_tritons() -> None:
    theirs = {}
    for module in (service_pb2, model_config_pb2):
        waiting = list(module.DESCRIPTOR.message_types_by_name.values())
        while waiting:
            descriptor = waiting.pop()
            theirs[descriptor.full_name] = descriptor
            waiting += descriptor.nested_types
    waiting = list(messages.pool().FindFileByName("inference.proto").message_types_by_name.values())
    compared = 0
    while waiting:
        ours = waiting.pop()
        waiting += ours.nested_types
        for field in ours.fields:
            like = theirs[ours.full_name].fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (like.number, like.type, like.is_repeated), field
            if field.enum_type:
                assert {v.name: v.number for v in field.enum_type.values} == {
                    v.name: v.number for v in like.enum_type.values
                }
            compared += 1
    assert compared > 100


def test_health_and_metadata(served: Served, client: triton.InferenceServerClient) -> None:
    headers = _key(served, "viewer")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny", headers=headers)
    assert client.is_model_ready("tiny", "1.0.0", headers=headers)
    assert not client.is_model_ready("tiny", "9", headers=headers)
    assert not client.is_model_ready("unknown", headers=headers)
    server = client.get_server_metadata(headers=headers, as_json=True)
    assert server["name"] == "haechi"
    assert "statistics" in server["extensions"]
    model = client.get_model_metadata("tiny", headers=headers)
    assert (model.name, list(model.versions), model.platform) == ("tiny", ["1.0.0"], "onnxruntime_onnx")
    image = model.inputs[0]
    assert (image.name, image.datatype, list(image.shape)) == ("image", "UINT8", [-1, -1, -1, 3])
    config = client.get_model_config("echo", headers=headers).config
    assert (config.name, config.backend, config.max_batch_size) == ("echo", "onnxruntime", 64)
    kinds = {each.name: model_config_pb2.DataType.Name(each.data_type) for each in config.input}
    assert (kinds["in_bytes"], kinds["in_fp16"], kinds["in_bool"]) == ("TYPE_STRING", "TYPE_FP16", "TYPE_BOOL")
    assert client.get_model_config("tiny", headers=headers).config.max_batch_size == 0


def test_every_datatype_comes_back_as_it_went(served: Served, client: triton.InferenceServerClient) -> None:
    inputs = echo_inputs(3, 4, seed=1)
    result = client.infer("echo", _echo_tensors(inputs), request_id="part 7", headers=_key(served))
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("part 7", "echo", "1")
    assert len(response.outputs) == len(DATATYPES)
    for name, sent in inputs.items():
        back = result.as_numpy(name.replace("in_", "out_"))
        if sent.dtype.kind == "O":
            assert [item.decode() for item in back.ravel()] == sent.ravel().tolist()
        else:
            assert back.dtype == sent.dtype
            np.testing.assert_array_equal(back, sent)


def test_typed_contents(served: Served, stub: Any) -> None:
    """As clients send them that know only the Open Inference Protocol, not Triton's raw tensors."""
    fields = {
        "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
        "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
        "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
    }  # fmt: skip
    request = service_pb2.ModelInferRequest(model_name="echo")
    inputs = echo_inputs(2, 2)
    for datatype, field in fields.items():
        name = f"in_{datatype.lower()}"
        values = inputs[name].ravel().tolist()
        if datatype == "BYTES":
            values = [value.encode() for value in values]
        request.inputs.add(name=name, datatype=datatype, shape=[2, 2], contents={field: values})
    with pytest.raises(grpc.RpcError) as caught:  # FP16 has no field, and is missing
        stub.ModelInfer(request, metadata=_metadata(served), timeout=SOON)
    assert "in_fp16 is missing" in caught.value.details()
    request.inputs.add(name="in_fp16", datatype="FP16", shape=[2, 2], contents={"fp32_contents": [1, 2, 3, 4]})
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, metadata=_metadata(served), timeout=SOON)
    assert "raw_input_contents" in caught.value.details()
    request.inputs[-1].shape[:] = [0, 2]
    request.inputs[-1].contents.Clear()
    with pytest.raises(grpc.RpcError, match="raw_input_contents"):
        stub.ModelInfer(request, metadata=_metadata(served), timeout=SOON)
    plain = service_pb2.ModelInferRequest(model_name="picky")
    plain.inputs.add(name="index", datatype="INT64", shape=[3], contents={"int64_contents": [0, 3, 1]})
    answer = stub.ModelInfer(plain, metadata=_metadata(served), timeout=SOON)
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1, 4, 2]
    del plain.inputs[0].contents.int64_contents[:]
    plain.inputs[0].contents.int64_contents.extend([0, 3])
    with pytest.raises(grpc.RpcError, match="holds 2 elements"):
        stub.ModelInfer(plain, metadata=_metadata(served), timeout=SOON)


def test_typed_contents_of_every_datatype(served: Served, stub: Any) -> None:
    inputs = echo_inputs(1, 2)
    request = service_pb2.ModelInferRequest(model_name="echo")
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=name.removeprefix("in_").upper(), shape=array.shape)
        raw = b"".join(
            len(item.encode()).to_bytes(4, "little") + item.encode() for item in array.ravel()
        ) if array.dtype.kind == "O" else array.tobytes()  # fmt: skip
        request.raw_input_contents.append(raw)
    answer = stub.ModelInfer(request, metadata=_metadata(served), timeout=SOON)
    assert list(answer.raw_output_contents) == list(request.raw_input_contents)
    request.raw_input_contents.pop()
    with pytest.raises(grpc.RpcError, match="one for each"):
        stub.ModelInfer(request, metadata=_metadata(served), timeout=SOON)
    wrong = service_pb2.ModelInferRequest(model_name="echo")
    wrong.inputs.add(name="in_int8", datatype="INT8", shape=[1, 1], contents={"int_contents": [128]})
    with pytest.raises(grpc.RpcError, match="out of the range of INT8"):
        stub.ModelInfer(wrong, metadata=_metadata(served), timeout=SOON)


def test_requested_outputs_and_classification(served: Served, client: triton.InferenceServerClient) -> None:
    values = np.array([[0.1, 0.7, 0.2]], np.float32)
    outputs = [triton.InferRequestedOutput("out_int8"), triton.InferRequestedOutput("out_fp32", class_count=2)]
    tensors = _echo_tensors(echo_inputs(1, 3) | {"in_fp32": values})
    result = client.infer("echo", tensors, outputs=outputs, headers=_key(served))
    assert [each.name for each in result.get_response().outputs] == ["out_int8", "out_fp32"]
    assert result.as_numpy("out_fp32").tolist() == [[b"0.700000:1", b"0.200000:2"]]


def test_errors_as_status_codes(served: Served, client: triton.InferenceServerClient, stub: Any) -> None:
    headers, engineer = _key(served), _key(served, "engineer")
    cases: list[tuple[Callable[[], object], str, str]] = [
        (lambda: client.infer("unknown", _index(0), headers=headers), "NOT_FOUND", "unknown"),
        (lambda: client.infer("picky", _index(0), "7", headers=headers), "NOT_FOUND", "no version"),
        (lambda: client.infer("picky", _steps(0), headers=headers), "INVALID_ARGUMENT", "steps is unknown"),
        (lambda: client.infer("picky", _index(99), headers=headers), "INVALID_ARGUMENT", "picky"),
        (lambda: client.infer("picky", _index(0) * 2, headers=headers), "INVALID_ARGUMENT", "twice"),
        (lambda: client.infer("picky", _index(0), priority=9, headers=headers), "INVALID_ARGUMENT", "priority"),
        (lambda: client.infer("picky", _index(0), sequence_id=4, headers=headers), "UNIMPLEMENTED", "sequence"),
        (lambda: client.infer("picky", _index(0)), "UNAUTHENTICATED", "key"),
        (lambda: client.infer("picky", _index(0), headers={"x-api-key": "hk_no"}), "UNAUTHENTICATED", "key"),
        (lambda: client.infer("picky", _index(0), headers=_key(served, "viewer")), "PERMISSION_DENIED", "operator"),
        (client.get_server_metadata, "UNAUTHENTICATED", "key"),
        (lambda: client.unload_model("picky", headers=headers), "PERMISSION_DENIED", "engineer"),
        (lambda: client.load_model("nothing", headers=engineer), "NOT_FOUND", "nothing"),
        (lambda: client.load_model("picky", config="{}", headers=engineer), "UNIMPLEMENTED", "config"),
        (lambda: client.get_system_shared_memory_status(headers=headers), "UNIMPLEMENTED", "found"),
        (lambda: client.get_model_config("nothing", headers=headers), "NOT_FOUND", "nothing"),
    ]
    for call, code, words in cases:
        with pytest.raises(InferenceServerException, match=words) as caught:
            call()
        assert caught.value.status() == f"StatusCode.{code}", caught.value.message()
    outputs = service_pb2.ModelInferRequest(model_name="picky", outputs=[{"name": "other"}])
    outputs.inputs.add(name="index", datatype="INT64", shape=[1], contents={"int64_contents": [0]})
    with pytest.raises(grpc.RpcError, match="output other is unknown"):
        stub.ModelInfer(outputs, metadata=_metadata(served), timeout=SOON)
    assert client.is_server_ready()


def test_statistics_and_repository(serve: Serve, tmp_path: Path) -> None:
    make_package(tmp_path / "tiny")
    with (
        serve(packages=[tmp_path], grpc="127.0.0.1:0") as served,
        triton.InferenceServerClient(_address(served)) as client,
    ):
        engineer = _key(served, "engineer")
        tensors = [triton.InferInput("image", [2, 4, 4, 3], "UINT8"), triton.InferInput("pixel_threshold", [1], "FP32")]
        tensors[0].set_data_from_numpy(np.full((2, 4, 4, 3), 255, np.uint8))
        tensors[1].set_data_from_numpy(np.array([0.5], np.float32))
        np.testing.assert_allclose(client.infer("tiny", tensors, headers=engineer).as_numpy("score"), [1, 1], atol=1e-5)
        (row,) = client.get_inference_statistics("tiny", headers=engineer).model_stats
        assert (row.name, row.version, row.inference_count, row.execution_count) == ("tiny", "1.0.0", 2, 1)
        assert row.inference_stats.compute_infer.ns > 0
        assert row.batch_stats[0].batch_size == 2
        assert len(client.get_inference_statistics(headers=engineer).model_stats) == 1
        (model,) = client.get_model_repository_index(headers=engineer).models
        assert (model.name, model.version, model.state) == ("tiny", "1.0.0", "READY")
        client.unload_model("tiny", headers=engineer)
        assert client.get_model_repository_index(headers=engineer).models[0].state == "UNAVAILABLE"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("tiny", tensors, headers=engineer)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        client.load_model("tiny", headers=engineer)
        client.infer("tiny", tensors, headers=engineer)


def test_asyncio_client_side_by_side(served: Served) -> None:
    async def scenario() -> list[float]:
        async with triton_aio.InferenceServerClient(_address(served)) as client:
            assert await client.is_server_ready()
            calls = [client.infer("picky", _index(i % 4), headers=_key(served)) for i in range(8)]
            return [float((await call).as_numpy("value")[0]) for call in calls]

    assert asyncio.run(scenario()) == [1, 2, 3, 4] * 2


def test_stream_answers_in_order_and_survives_errors(served: Served) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(_address(served)) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers=_key(served))
        indices = [0, 1, 99, 2, 3] * 10
        for number, index in enumerate(indices):
            client.async_stream_infer("picky", _index(index), request_id=str(number))
        for number, index in enumerate(indices):
            result, error = answers.get(timeout=SOON)
            if index == 99:
                assert "picky" in str(error)
            else:
                assert error is None
                assert result.get_response().id == str(number)
                assert result.as_numpy("value").tolist() == [index + 1]
        client.stop_stream()
    with triton.InferenceServerClient(_address(served)) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        _, error = answers.get(timeout=SOON)
        assert "key" in str(error)


def test_deadline_and_cancellation_leave_the_queue(serve: Serve, packages: Path) -> None:
    with (
        serve(packages=[packages / "slow"], grpc="127.0.0.1:0") as served,
        triton.InferenceServerClient(_address(served)) as client,
    ):
        model, headers = served.state.models["slow"], _key(served)
        done: queue.Queue[Any] = queue.Queue()
        client.async_infer("slow", _steps(8000), lambda result, error: done.put(error), headers=headers)
        _until(lambda: model.queue.computing == 1)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("slow", _steps(1), headers=headers, client_timeout=0.15)
        assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.RESOURCE_EXHAUSTED")
        waiting = client.async_infer("slow", _steps(1), lambda result, error: done.put(error), headers=headers)
        _until(lambda: model.queue.pending == 1)
        waiting.cancel()
        _until(lambda: model.queue.pending == 0)
        assert {str(done.get(timeout=SOON)) for _ in range(2)} >= {"None"}
        assert client.infer("slow", _steps(1), headers=headers).as_numpy("total").size == 1


def test_busy_is_resource_exhausted_with_retry_after(serve: Serve, packages: Path) -> None:
    limits = Limits(queue_requests=1)
    with (
        serve(limits, packages=[packages / "slow"], grpc="127.0.0.1:0") as served,
        grpc.insecure_channel(_address(served)) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="slow")
        request.inputs.add(name="steps", datatype="INT64", shape=[1], contents={"int64_contents": [4000]})
        calls = [stub.ModelInfer.future(request, metadata=_metadata(served), timeout=SOON) for _ in range(6)]
        codes = [call.code() for call in calls]
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 3
        assert codes.count(grpc.StatusCode.OK) >= 2
        refused = next(call for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert dict(refused.trailing_metadata())["retry-after"].isdigit()


def test_messages_are_bounded(serve: Serve, packages: Path) -> None:
    limits = Limits(max_upload_bytes=1 << 20)
    with (
        serve(limits, packages=[packages / "picky"], grpc="127.0.0.1:0") as served,
        triton.InferenceServerClient(_address(served)) as client,
    ):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("picky", _index(*[0] * 300_000), headers=_key(served))
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        shape = service_pb2.ModelInferRequest(model_name="picky", raw_input_contents=[b""])
        shape.inputs.add(name="index", datatype="INT64", shape=[1 << 40])
        with grpc.insecure_channel(_address(served)) as channel, pytest.raises(grpc.RpcError, match="limit"):
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(shape, metadata=_metadata(served))
        assert client.infer("picky", _index(0), headers=_key(served)).as_numpy("value").tolist() == [1]
        assert served.metric("haechi_http_body_bytes_in_flight") == 0


def test_stopping_answers_what_was_admitted_and_ends_idle_streams(serve: Serve, packages: Path) -> None:
    done: queue.Queue[Any] = queue.Queue()
    with serve(packages=[packages / "slow", packages / "picky"], grpc="127.0.0.1:0") as served:
        client = triton.InferenceServerClient(_address(served))
        client.start_stream(lambda result, error: None, headers=_key(served))
        client.async_stream_infer("picky", _index(0))
        for _ in range(3):
            client.async_infer(
                "slow", _steps(1500), lambda result, error: done.put((result, error)), headers=_key(served)
            )
        _until(lambda: served.state.models["slow"].queue.pending == 2)
        began = time.monotonic()
    assert time.monotonic() - began < 9, "an open stream does not hold up the end"
    for _ in range(3):
        result, error = done.get(timeout=SOON)
        assert error is None, error
        assert result.as_numpy("total").size == 1
    with pytest.raises(InferenceServerException):
        client.infer("picky", _index(0), headers=_key(served), client_timeout=5)
    client.close()


def test_a_taken_port_is_an_error_before_anything_starts(served: Served) -> None:
    assert served.state.grpc_port
    with pytest.raises(BadInput, match="--grpc-port"):
        choose("127.0.0.1", served.state.grpc_port)
    address = choose("127.0.0.1", 0)
    assert int(address.removeprefix("127.0.0.1:")) > 0
    assert choose("::1", 50999) == "[::1]:50999"


def test_random_requests_never_break_the_server(served: Served, stub: Any) -> None:
    """Any field of a good request, changed at random, is answered or refused as the client's mistake."""
    generator = random.Random(11)
    good = service_pb2.ModelInferRequest(model_name="picky", id="x", raw_input_contents=[bytes(16)])
    good.inputs.add(name="index", datatype="INT64", shape=[2])
    changes: list[Callable[[Any], object]] = [
        lambda request: setattr(request, "model_version", generator.choice(["1", "2", "\0", "x" * 5000])),
        lambda request: setattr(request.inputs[0], "name", generator.choice(["", "index", "Index", "\u2028"])),
        lambda request: setattr(request.inputs[0], "datatype", generator.choice([*DATATYPES, "", "int64", "X" * 9999])),
        lambda request: request.inputs[0].shape.append(generator.choice([-1, 0, 1, 2, 1 << 40, (1 << 63) - 1])),
        lambda request: request.inputs[0].shape.__setitem__(0, generator.choice([-(1 << 63), -1, 0, 1, 3, 1 << 62])),
        lambda request: request.raw_input_contents.append(generator.randbytes(generator.randrange(20))),
        lambda request: request.raw_input_contents.__setitem__(0, generator.randbytes(generator.randrange(40))),
        lambda request: request.inputs[0].contents.int64_contents.extend([1] * generator.randrange(4)),
        lambda request: request.inputs[0].contents.fp32_contents.append(float("nan")),
        lambda request: request.inputs.add(name="index", datatype="INT64", shape=[2]),
        lambda request: request.outputs.add(name=generator.choice(["value", "index", ""])),
        lambda request: request.parameters["priority"].CopyFrom(
            service_pb2.InferParameter(**generator.choice([{"int64_param": -1}, {"string_param": "1"}, {}]))
        ),
        lambda request: request.parameters["timeout"].CopyFrom(service_pb2.InferParameter(uint64_param=(1 << 64) - 1)),
    ]
    codes = set()
    for _ in range(300):
        request = service_pb2.ModelInferRequest()
        request.CopyFrom(good)
        for _ in range(generator.randint(1, 3)):
            generator.choice(changes)(request)
        call = stub.ModelInfer.future(request, metadata=_metadata(served), timeout=SOON)
        codes.add(call.code())
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert codes <= allowed
    assert len(codes) == 3
    assert stub.ModelInfer(good, metadata=_metadata(served), timeout=SOON).id == "x"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_answers_grpc_until_it_is_told_to_stop(packages: Path, tmp_path: Path, workers: int) -> None:
    key = KeyStore(tmp_path / KEYS_FILE).create("line3", "operator")
    program = "from solutions.cli import main; main()"
    options = ["serve", "--packages", str(packages / "picky"), "--port", "0", "--grpc-port", "0"]
    options += ["--workers", str(workers)]
    environment = {**os.environ, "HAECHI_HOME": str(tmp_path), "HAECHI_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program, *options], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            told = next(line for line in process.stdout if "gRPC" in line)
            with triton.InferenceServerClient(told.split()[-1]) as client:
                _until(lambda: _is_ready(client), 40)
                headers = {"x-api-key": key}
                assert client.infer("picky", _index(2), headers=headers).as_numpy("value").tolist() == [3]
            for _ in range(8):  # a connection each: whichever worker takes it answers
                with triton.InferenceServerClient(told.split()[-1]) as client:
                    assert client.infer("picky", _index(1), headers=headers).as_numpy("value").tolist() == [2]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def _is_ready(client: triton.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except InferenceServerException:
        return False


def test_calls_over_tls(serve: Serve, packages: Path, tmp_path: Path) -> None:
    tls = make_certificate(tmp_path / "tls")
    with serve(packages=[packages / "picky"], grpc="127.0.0.1:0", tls=tls) as served:
        address = f"localhost:{served.state.grpc_port}"
        with triton.InferenceServerClient(address, ssl=True, root_certificates=str(tls.cert)) as client:
            assert client.infer("picky", _index(3), headers=_key(served)).as_numpy("value").tolist() == [4]
        with triton.InferenceServerClient(address) as plain, pytest.raises(InferenceServerException):
            plain.is_server_live(client_timeout=3)


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)
