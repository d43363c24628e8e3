"""The models that `benchmarks.serving` serves: torchvision's architectures with random, seeded weights, FP32 NCHW.

    .venv/bin/python -m benchmarks.serving_models FOLDER

A process of its own, so that the one that measures does not carry PyTorch. Random weights cost the same time as
trained ones. `mobilenet` is MobileNetV3-small at 224 pixels, some 1 ms on one thread; `ten-ms` is ResNet-18 at the size
at which it takes 10 ms on one thread of this machine.
"""

from __future__ import annotations

import math
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from shared.lineage import code_revision
from shared.manifest import Lineage, Manifest, TensorSpec
from shared.package import Golden, write_package

MOBILENET, TEN_MS = "mobilenet", "ten-ms"
NAMES = (MOBILENET, TEN_MS)
INPUT, OUTPUT = "image", "logits"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, with which pictures become these models' inputs."""
_SEED = 0
_CLASSES = 1000
_FIRST_SIZE, _STEP = 128, 16
_WANTED_MS = 10.0


def main() -> int:
    """Write the packages that are not there yet."""
    from torchvision.models import mobilenet_v3_small, resnet18

    folder = Path(sys.argv[1])
    if not (folder / MOBILENET).exists():
        _write(folder / MOBILENET, *_exported(mobilenet_v3_small, 224))
    if not (folder / TEN_MS).exists():
        model, size = _exported(resnet18, _FIRST_SIZE)
        # The time of convolutions grows with the area.
        wanted = _STEP * round(size * math.sqrt(_WANTED_MS / _milliseconds(model, size)) / _STEP)
        _write(folder / TEN_MS, *((model, size) if wanted == size else _exported(resnet18, wanted)))
    return 0


def _exported(architecture: Any, size: int) -> tuple[bytes, int]:
    import torch

    from shared.training.export import export

    torch.manual_seed(_SEED)
    module = architecture(weights=None, num_classes=_CLASSES).eval()
    return export(module, {INPUT: torch.zeros(2, 3, size, size)}, [OUTPUT], {INPUT: {0: "n"}}), size


def _milliseconds(model: bytes, size: int) -> float:
    """Of one inference on one thread: the quickest of twenty, since what comes on top is the machine's."""
    from shared.training.export import Session

    session, picture = Session(model, 1), _picture(size)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        session.run({INPUT: picture})
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def _picture(size: int) -> np.ndarray:
    return np.random.default_rng(_SEED).standard_normal((1, 3, size, size), np.float32)


def _write(destination: Path, model: bytes, size: int) -> None:
    from shared.training.export import Session

    picture = _picture(size)
    encoded = {"size": [size, size], "layout": "NCHW", "scale": 1 / 255, "mean": list(MEAN), "std": list(STD)}
    manifest = Manifest(
        name=destination.name,
        version="1",
        task="benchmark",
        description="Random weights; made to measure servers.",
        inputs=[TensorSpec(name=INPUT, datatype="FP32", shape=[-1, 3, size, size])],
        outputs=[TensorSpec(name=OUTPUT, datatype="FP32", shape=[-1, _CLASSES])],
        preprocessing={"encoded_images": {INPUT: encoded}},
        lineage=Lineage(
            data_fingerprint="none",
            code_revision=code_revision(),
            seed=_SEED,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
    write_package(destination, manifest, model, Golden({INPUT: picture}, Session(model, 1).run({INPUT: picture})))


if __name__ == "__main__":
    sys.exit(main())
