"""The person detector that comes with Haechi."""

from __future__ import annotations

import numpy as np

from shared import runtime
from shared.detectors.builtin import person_detector


def test_it_is_whole_licensed_and_passes_its_self_test() -> None:
    package = person_detector()
    assert package.manifest.labels == ["person"]
    assert package.manifest.weights[0].licence == "MIT"
    assert b"Copyright" in package.asset("LICENCE.txt")
    runtime.load(package, "cpu", 1)  # replays the golden samples
    assert (package.golden.outputs["scores"] > 0).any(), "a self-test on nothing proves nothing"


def test_it_takes_pictures_of_any_size_in_batches() -> None:
    model = runtime.load(person_detector(), "cpu", 1, self_test=False)
    out = model.run({"image": np.zeros((2, 77, 133, 3), dtype=np.uint8)})
    assert out["boxes"].shape == (2, 100, 4)
    assert (out["scores"] < 0.3).all()
