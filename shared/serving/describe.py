"""What clients ask about a model besides its metadata: Triton's configuration and statistics, as JSON has them.

Formats: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shared.manifest import TensorSpec
from shared.serving.classes import is_batched
from shared.serving.models import ServedModel

PLATFORM = "onnxruntime_onnx"
MAX_BATCH = 64
"""Largest batch that the configuration promises for models whose tensors all begin with a free dimension. A request may
hold more, as long as its bytes are within the server's limits."""
_CPU = "CPUExecutionProvider"


def model_config(served: ServedModel) -> dict[str, Any]:
    """The answer to GET /v2/models/{name}/config.

    As in Triton, `dims` leave out the batch dimension where `max_batch_size` is above 0. That is so where the first
    dimension of every input and output is free.
    """
    manifest, choices = served.manifest, served.choices
    batched = is_batched(manifest)
    together = int(choices.get("max_batch", 1))
    config: dict[str, Any] = {
        "name": served.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"all": {}},
        "max_batch_size": max(MAX_BATCH, together) if batched else 0,
        "input": [_tensor(spec, batched) | {"format": "FORMAT_NONE"} for spec in manifest.inputs],
        "output": [_tensor(spec, batched) | {"label_filename": ""} for spec in manifest.outputs],
        "instance_group": [
            {
                "name": served.name,
                "kind": "KIND_CPU" if served.ready and served.model.provider == _CPU else "KIND_AUTO",
                "count": int(choices.get("workers", 1)),
            }
        ],
        "default_model_filename": "model.onnx",
        "parameters": {"intra_op_thread_count": {"string_value": str(choices.get("threads", 1))}},
    }
    if together > 1:
        config["dynamic_batching"] = {"preferred_batch_size": [together], "max_queue_delay_microseconds": 0}
    return config


def statistics(models: Iterable[ServedModel]) -> dict[str, Any]:
    """The answer to GET /v2/models/stats; under `haechi`, beside Triton's keys, what was chosen at load and why."""
    return {"model_stats": [_statistics(served) for served in models]}


def _statistics(served: ServedModel) -> dict[str, Any]:
    values, metrics = served.metrics.values(), served.metrics
    succeeded = values["nv_inference_request_success"]
    failed = sum(count for name, count in values.items() if name.startswith("nv_inference_request_failure/"))
    durations = {
        "success": _duration(succeeded, values["nv_inference_request_duration_us"] * 1000),
        "fail": _duration(failed, metrics.failed_seconds * 1e9),
        "queue": _duration(succeeded, values["nv_inference_queue_duration_us"] * 1000),
    }
    for part in ("compute_input", "compute_infer", "compute_output"):
        durations[part] = _duration(succeeded, values[f"nv_inference_{part}_duration_us"] * 1000)
    return {
        "name": served.name,
        "version": served.version,
        "last_inference": round(metrics.last_inference * 1000),
        "inference_count": values["nv_inference_count"],
        "execution_count": values["nv_inference_exec_count"],
        "inference_stats": {**durations, "cache_hit": _duration(0, 0), "cache_miss": _duration(0, 0)},
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(count, before * 1e9),
                "compute_infer": _duration(count, inside * 1e9),
                "compute_output": _duration(count, after * 1e9),
            }
            for size, (count, before, inside, after) in metrics.batches().items()
        ],
        "memory_usage": [],
        "haechi": served.choices,
    }


def _duration(count: int, nanoseconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(nanoseconds)}


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    dims = spec.shape[1:] if batched else spec.shape
    entry: dict[str, Any] = {"name": spec.name, "data_type": data_type(spec.datatype), "dims": dims or [1]}
    if not dims:
        entry["reshape"] = {"shape": []}  # the format's way to say that nothing is left beside the batch
    return entry


def data_type(datatype: str) -> str:
    """The configuration's name of one of the protocol's datatypes."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
