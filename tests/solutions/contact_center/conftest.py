"""A small bot, and conversations with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.records import Records
from solutions.contact_center.config import Bot
from tests.solutions.contact_center.talking import Talk, make_bot


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Bot:
    return make_bot(tmp_path_factory.mktemp("bot"))


@pytest.fixture
def records(haechi_home: Path) -> Iterator[Records]:
    with Records.open() as opened:
        yield opened


@pytest.fixture
def talk(clinic: Bot, records: Records) -> Talk:
    return Talk(clinic, records)


@pytest.fixture
def chat(clinic: Bot, records: Records) -> Talk:
    """In English."""
    return Talk(clinic, records, language="en", id="c2")


@pytest.fixture(scope="session")
def clinic_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clinic with all channels, trained once."""
    from tests.solutions.contact_center.served import train_bot

    return train_bot(tmp_path_factory.mktemp("served"))
