"""What a competent engineer writes in an afternoon: FastAPI around ONNX Runtime, raw bytes in and out.

Run by `benchmarks.serving` in an environment of its own, from a copy of this one file:

    MODEL=model.onnx uvicorn serving_fastapi:app --workers 2 --log-level warning

One process for each core and one thread in each: on a CPU that beats threads that share a session. The handler calls
the model directly: a thread in between (`run_in_threadpool`) costs CPU time and frees a core that is not there.
"""

import os

import cv2
import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_BINARY = "application/octet-stream"

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
shape = session.get_inputs()[0].shape[1:]
app = FastAPI()


@app.get("/health")
async def health() -> dict[str, int]:
    """Answers once the model is loaded; says which process it is, so that all of them can be waited for."""
    return {"pid": os.getpid()}


@app.post("/predict")
async def predict(request: Request) -> Response:
    """FP32 [N, 3, H, W] → FP32 [N, classes]."""
    picture = np.frombuffer(await request.body(), np.float32).reshape(-1, *shape)
    return Response(session.run(None, {name: picture})[0].tobytes(), media_type=_BINARY)


@app.post("/predict_jpeg")
async def predict_jpeg(request: Request) -> Response:
    """An image file → FP32 [1, classes]. Decoded at half its size, which is quicker and large enough here."""
    height, width = shape[1:]
    decoded = cv2.imdecode(np.frombuffer(await request.body(), np.uint8), cv2.IMREAD_REDUCED_COLOR_2)
    if decoded is None:
        return Response("no picture", 400)
    small = cv2.cvtColor(cv2.resize(decoded, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    picture = ((small.astype(np.float32) / 255 - _MEAN) / _STD).transpose(2, 0, 1)[None]
    return Response(session.run(None, {name: np.ascontiguousarray(picture)})[0].tobytes(), media_type=_BINARY)
