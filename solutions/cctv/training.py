"""A detector of one's own things (helmets, vests, fire, forklifts) by the one training engine: a thin front to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.errors import HaechiError
from shared.log import get_logger
from shared.training.commands import as_dict
from shared.training.config import TrainConfig
from shared.training.packaging import train_package

_log = get_logger(__name__)
_PATIENCE = 15


def train(
    dataset: Path,
    output: Path,
    *,
    base: str = "yolo11n",
    epochs: int = 50,
    image_size: int = 416,
    seed: int = 0,
    scratch: bool = False,
) -> dict[str, Any]:
    """Fine-tune a detector and write its package.

    Args:
        dataset: as `haechi train` takes it for detection: a folder with images/ and labels/, a data.yaml, a COCO file.
        base: network by name (its trained weights are fetched, or taken from the cache), or a `.pt` file.
        image_size: pixels a side.
        scratch: start from random weights: for networks whose weights cannot be had.

    Returns:
        What `haechi train --json` writes.

    Raises:
        BadInput: the data cannot be used.
        HaechiError: the weights are nowhere to be found, or training failed.
    """
    weights = base if base.endswith(".pt") else f"{base}.pt"
    architecture = Path(weights).stem if base.endswith(".pt") else base
    config = TrainConfig(
        task="detection",
        data={"path": str(dataset)},
        model={"architecture": architecture, "image_size": image_size} | ({} if scratch else {"weights": weights}),
        augment={"mosaic": 1.0, "flip": 0.5},
        fit={"epochs": epochs, "batch_size": 16, "lr": 0.001, "patience": _PATIENCE},  # type: ignore[arg-type]
        seed=seed,
    )
    try:
        trained = train_package(config, output)
    except HaechiError as error:
        if scratch or "weights" not in str(error):
            raise
        raise type(error)(f"{error} `--scratch` trains without them, which takes many more pictures.") from error
    _log.info("detector_trained", package=str(trained.path), **{trained.metric: trained.metrics[trained.metric]})
    return as_dict(trained, config)
