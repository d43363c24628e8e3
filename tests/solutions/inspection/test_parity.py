"""The model that was trained and the graph that was exported give the same scores, on real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_tools.dataset import scan
from shared.images import read_image
from shared.training.config import TrainConfig
from solutions.inspection.pipeline import Inspector

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "inspection"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ballscrew", "cookies"])
def test_scores_of_the_export_are_those_of_the_model_on_50_real_pictures(name: str, tmp_path: Path) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"the real pictures {name} are not kept here")
    import torch

    from shared.training.packaging import train_package
    from solutions.inspection.training import Anomaly

    data = scan(REAL / name)
    config = TrainConfig(task="anomaly", data={"path": str(REAL / name)}, model={"kind": "fusion"})
    task = Anomaly(config, data=data)
    train_package(config, tmp_path / "package", task=task)
    assert task.learned is not None
    net = task.learned.net
    inspector = Inspector.load(tmp_path / "package", threads=2)
    items = (data.test_good + data.bad)[:: max(1, len(data.test_good + data.bad) // 50)][:50]
    assert len(items) == 50
    differences = []
    for item in items:
        image = read_image(item.path)
        with torch.inference_mode():
            expected = float(net(torch.from_numpy(image[None]), torch.zeros(1))[0][0])
        differences.append(abs(inspector.inspect(image).score - expected) / abs(expected))
    assert np.max(differences) <= 1e-4
