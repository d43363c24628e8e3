"""What several tests of CCTV stand on."""

from __future__ import annotations

import pytest

from solutions.cctv.sinks import dispatcher


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be sent is tried again at once."""
    monkeypatch.setattr(dispatcher, "FIRST_S", 0.01)
    monkeypatch.setattr(dispatcher, "LONGEST_S", 0.1)
