"""What /openapi.json promises, held against the server as it is composed: protocol, solutions and login."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from shared.runtime import default_threads
from shared.serving.server import RunningServer, running
from shared.serving.state import ServerOptions
from shared.settings import Settings
from solutions.serve_commands import routers
from tests.shared.packages import make_package
from tests.shared.serving.models import picky_package
from tests.solutions.contact_center.served import train_bot

_EXAMPLES = 60
"""For each operation and mode. Their number alone decides what is tried, not how quick the machine is."""
_METHODS = ("get", "post", "put", "delete", "patch")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("served")
    make_package(folder / "tiny")
    picky_package(folder / "picky")
    picky_package(folder / "spare", name="spare")
    settings = Settings(home=folder / "home", database_url=f"sqlite:///{folder / 'records.db'}", threads=1)
    packages = [folder / "tiny", folder / "picky", folder / "spare", train_bot(folder)]
    with running(ServerOptions(packages, threads=default_threads()), settings, routers=routers()) as made:
        made.wait_ready()
        yield made


@pytest.fixture(scope="module")
def key(server: RunningServer) -> dict[str, str]:
    return {"X-Api-Key": server.state.auth.store.create("tester", "admin")}


@pytest.fixture(scope="module")
def description(server: RunningServer, key: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/openapi.json", headers=key).json()
    return found


def _operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in description["paths"].items():
        for method in operations.keys() & set(_METHODS):
            yield path, method, operations[method]


def test_every_operation_tells_its_refusals_as_they_are(description: dict[str, Any]) -> None:
    for path, method, operation in _operations(description):
        where = f"{method} {path}"
        answers = operation["responses"]
        assert "422" not in answers, where
        in_path = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        for parameter in operation.get("parameters", []):
            assert "null" not in str(parameter["schema"]), (where, parameter)
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}, where
        if not path.startswith(("/v2/health", "/login")):
            assert {"401", "403"} <= answers.keys(), where
            assert operation["security"], where
        for status, answer in answers.items():
            if status >= "400" and "text/html" not in answer.get("content", {}):
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Error"), (where, status)


def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    found = set(walk(description))
    assert found
    for reference in found:
        target = description
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_inference_is_described_as_it_works(server: RunningServer, key: dict[str, str], description: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema_rs")
    components = {"components": description["components"]}

    def check(name: str, value: Any) -> None:
        jsonschema.validate({"$ref": f"#/components/schemas/{name}"} | components, value)

    tensor = {"name": "index", "shape": [2], "datatype": "INT64", "data": [0, 3]}
    request = {"id": "7", "inputs": [tensor], "outputs": [{"name": "value"}], "parameters": {"priority": 1}}
    check("InferRequest", request)
    url = f"{server.url}/v2/models/picky/infer"
    answer = httpx.post(url, headers=key, json=request)
    check("InferResponse", answer.json())
    wrong = httpx.post(url, headers=key, json={"inputs": []})
    assert wrong.status_code == 400
    check("Error", wrong.json())
    with pytest.raises(jsonschema.ValidationError):
        check("InferRequest", {"inputs": []})


def _focused(description: dict[str, Any]) -> dict[str, Any]:
    """The description with model names that exist, so that more than a 404 is tried; `spare` comes and goes."""
    schema = copy.deepcopy(description)
    for path, _, operation in _operations(schema):
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path" and parameter["name"] == "model":
                names = ["spare", "nothing"] if "/repository/" in path else ["picky", "tiny", "nothing"]
                parameter["schema"] = {"type": "string", "enum": names}
            elif parameter["in"] == "path" and parameter["name"] == "version":
                parameter["schema"] = {"type": "string", "enum": ["1", "1.0.0", "9"]}
            elif parameter["in"] == "path" and parameter["name"] == "bot":
                parameter["schema"] = {"type": "string", "enum": ["clinic", "nothing"]}
    return schema


@pytest.mark.slow
def test_schemathesis_finds_no_broken_promise(
    server: RunningServer, key: dict[str, str], description: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.internal.conjecture import providers
    from schemathesis import checks

    # Hypothesis mixes in constants of whatever source files are loaded: other tests, and each change, would decide
    # what is tried here.
    none = providers.Constants()
    monkeypatch.setattr(providers, "_get_local_constants", lambda: none)

    schema = schemathesis.openapi.from_dict(_focused(description))
    schema.config.update(base_url=server.url)
    refused = schema.config.checks.negative_data_rejection
    refused.expected_statuses = [*refused.expected_statuses, "413"]  # a body above the limit
    conformance = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
    promises = [checks.CHECKS.get_one(name) for name in (*conformance, "negative_data_rejection")]
    statuses: dict[str, set[int]] = {}

    def trial(label: str) -> Callable[[Any], None]:
        def attempt(case: Any) -> None:
            response = case.call(headers=key, allow_redirects=False, timeout=20)
            statuses.setdefault(label, set()).add(response.status_code)
            assert response.status_code != 500, response.text
            case.validate_response(response, checks=promises)

        return attempt

    for found in schema.get_all_operations():
        operation = found.ok()
        raw = operation.definition.raw
        takes_something = "parameters" in raw or "requestBody" in raw
        for mode in schemathesis.GenerationMode if takes_something else [schemathesis.GenerationMode.POSITIVE]:
            attempt = given(case=operation.as_strategy(generation_mode=mode))(trial(operation.label))
            settings(
                max_examples=_EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )(attempt)()
    assert len(statuses) > 20
    assert 200 in statuses["GET /v2/models/{model}"]
    assert 400 in statuses["POST /v2/models/{model}/infer"]
    talking = "POST /api/contact_center/bots/{bot}/conversations/{conversation}/messages"
    assert {200, 400, 404} <= statuses[talking]
    assert {201, 400, 404} <= statuses["POST /chat/{bot}/conversations"]
    assert httpx.get(f"{server.url}/v2/models/picky/ready", headers=key).status_code == 200
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
