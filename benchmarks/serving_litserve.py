"""The same model in LitServe, set up as its documentation recommends: one worker and one HTTP process for each core,
`fast_queue` for more than 100 requests a second, raw bytes in and out.

Run by `benchmarks.serving` in an environment of its own, from a copy of this one file:

    python serving_litserve.py MODEL PORT WORKERS

No `from __future__ import annotations` here: LitServe reads the annotation of `decode_request` to know what to pass.
"""

import sys
from typing import Annotated, Any

import litserve  # type: ignore[import-not-found]
import numpy as np
import onnxruntime
from fastapi import Body, Response

_BINARY = "application/octet-stream"


class Api(litserve.LitAPI):
    """Decode, run, encode; each worker has a session of its own."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._path = model

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name
        self._shape = self._session.get_inputs()[0].shape[1:]

    def decode_request(self, request: Annotated[bytes, Body(media_type=_BINARY)]) -> Any:
        return np.frombuffer(request, np.float32).reshape(-1, *self._shape)

    def predict(self, x: Any) -> Any:
        return self._session.run(None, {self._name: x})[0]

    def encode_response(self, output: Any) -> Response:
        return Response(output.tobytes(), media_type=_BINARY)


if __name__ == "__main__":
    model, port, workers = sys.argv[1:]
    server = litserve.LitServer(Api(model), accelerator="cpu", workers_per_device=int(workers), fast_queue=True)
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
