"""The server that is asked: the one named in the environment, or one of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from shared.serving.server import running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from tests.conformance.target import Target
from tests.shared.packages import make_package
from tests.shared.serving.models import echo_package, picky_package

NAMED = Target.from_environment()
OURS = ("echo", "tiny", "picky")


@pytest.fixture(scope="session")
def our_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target | None]:
    if NAMED is not None:
        yield None
        return
    home, packages = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("packages")
    make_package(packages / "tiny.zip")
    echo_package(packages / "echo")
    picky_package(packages / "picky")
    settings = Settings(home=home, database_url=f"sqlite:///{home / 'records.db'}", threads=1)
    with running(ServerOptions([packages], threads=1, grpc="127.0.0.1:0"), settings) as server:
        server.wait_ready()
        key = server.state.auth.store.create("conformance", "operator")
        grpc = f"127.0.0.1:{server.state.grpc_port}"
        yield Target(server.url.removeprefix("http://"), grpc, "", key)


@pytest.fixture(scope="session", params=[NAMED.model] if NAMED else OURS)
def target(request: pytest.FixtureRequest, our_server: Target | None) -> Target:
    if NAMED is not None:
        return NAMED
    assert our_server is not None
    return Target(our_server.http, our_server.grpc, request.param, our_server.key)


@pytest.fixture(scope="session")
def http(target: Target) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(target.http) as client:
        yield client


@pytest.fixture(scope="session")
def grpc(target: Target) -> Iterator[triton_grpc.InferenceServerClient]:
    if target.grpc is None:
        pytest.skip("no gRPC address was named: HAECHI_CONFORMANCE_GRPC")
    with triton_grpc.InferenceServerClient(target.grpc) as client:
        yield client


@pytest.fixture(scope="session")
def extensions(target: Target, http: triton_http.InferenceServerClient) -> set[str]:
    return set(http.get_server_metadata(headers=target.headers)["extensions"])


@pytest.fixture(scope="session")
def metadata(target: Target, http: triton_http.InferenceServerClient) -> dict[str, Any]:
    found: dict[str, Any] = http.get_model_metadata(target.model, headers=target.headers)
    return found


def need(extensions: set[str], name: str) -> None:
    """Skip a test where the server does not announce an extension."""
    if name not in extensions:
        pytest.skip(f"the server does not announce the extension {name}")
