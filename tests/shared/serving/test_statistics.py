"""Triton's statistics, counted over real requests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import tritonclient.http as triton

from tests.shared.serving.served import Served

Serve = Callable[..., AbstractContextManager[Served]]


def _index(*values: int) -> str:
    tensor = {"name": "index", "shape": [len(values)], "datatype": "INT64", "data": list(values)}
    return json.dumps({"inputs": [tensor]})


def test_statistics_tell_what_was_done(serve: Serve) -> None:
    with serve() as served, triton.InferenceServerClient(served.address) as client:
        headers = served.headers("viewer")
        (before,) = client.get_inference_statistics("picky", headers=headers)["model_stats"]
        assert (before["inference_count"], before["execution_count"], before["last_inference"]) == (0, 0, 0)
        with served.client() as plain:
            for _ in range(3):
                assert plain.post("/v2/models/picky/infer", content=_index(0, 1, 2)).status_code == 200
            assert plain.post("/v2/models/picky/infer", content=_index(99)).status_code == 400
        (after,) = client.get_inference_statistics("picky", "1", headers=headers)["model_stats"]
        assert (after["name"], after["version"]) == ("picky", "1")
        assert (after["inference_count"], after["execution_count"]) == (9, 3)
        assert abs(after["last_inference"] / 1000 - time.time()) < 60
        spent = after["inference_stats"]
        assert {name: entry["count"] for name, entry in spent.items()} == {
            "success": 3, "fail": 1, "queue": 3, "compute_input": 3, "compute_infer": 3, "compute_output": 3,
            "cache_hit": 0, "cache_miss": 0,
        }  # fmt: skip
        assert spent["compute_infer"]["ns"] > 0
        assert spent["success"]["ns"] >= spent["compute_infer"]["ns"]
        (batch,) = after["batch_stats"]
        assert (batch["batch_size"], batch["compute_infer"]["count"]) == (3, 3)
        assert after["haechi"]["workers"] >= 1
        every = client.get_inference_statistics(headers=headers)["model_stats"]
        assert {entry["name"] for entry in every} == {"tiny", "echo", "slow", "picky"}
        with served.client("viewer") as plain:
            assert plain.get("/v2/models/nothing/stats").status_code == 404
            assert plain.get("/v2/models/picky/versions/9/stats").status_code == 404
        with served.client(None) as stranger:
            assert stranger.get("/v2/models/stats").status_code == 401
