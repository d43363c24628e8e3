"""Two server processes on one database, one killed in between: no turn is lost, none is taken twice."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks import conversations
from tests.shared.test_records import SERVER


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.db'}"
        return
    server = sa.create_engine(SERVER, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 2})
    name = f"haechi_{secrets.token_hex(6)}"
    try:
        with server.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    except sa.exc.OperationalError:
        server.dispose()
        pytest.skip("no PostgreSQL lets us make a database on 127.0.0.1:5432 or the PGHOST and PGPORT given")
    yield server.url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.mark.slow
def test_a_killed_server_costs_no_turn(clinic_package: Path, database: str, tmp_path: Path) -> None:
    told = tmp_path / "figures.json"
    options = ["--quick", "--workers", "1", "--package", str(clinic_package), "--database", database]
    assert conversations.main([*options, "--json", str(told)]) == 0
    figures = {each["name"]: each["value"] for each in json.loads(told.read_text(encoding="utf-8"))["figures"]}
    assert figures["turns"] >= 20
    assert figures["turns sent again"] >= 1  # somebody was waiting for the one that was killed
    assert figures["turns lost"] == figures["turns doubled"] == figures["answers unlike the store's"] == 0
