"""What /openapi.json says beyond what FastAPI knows: bodies that are read by hand, keys, and every refusal.

FastAPI describes what its own parsing takes and gives. Here bodies are read by hand, errors are `{"error": sentence}`
with 400 where FastAPI would say 422, and the gate refuses requests before any route sees them. `complete` writes that
into the description, so that a client made from it, or a tester such as Schemathesis, is told the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from shared.serving import oip
from shared.serving.auth import COOKIE, PROBE_PATHS, PUBLIC_PATHS
from shared.serving.tensors import DTYPES

Schema = dict[str, Any]

_JSON, _BINARY = "application/json", "application/octet-stream"
_ERROR = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
_WORDS = {
    400: "The request is wrong; the sentence says what and how to mend it.",
    401: "No key, or one that is unknown, expired or revoked.",
    403: "The key's role does not suffice, or a page of another site asks.",
    404: "There is no such thing.",
    408: "The client fell silent in the middle of its body.",
    413: "The body is larger than this server takes, packed or unpacked.",
    415: "The Content-Encoding is neither gzip nor deflate.",
    429: "Busy: the queue is full, the deadline could not be met, or the key's rate is used up. See Retry-After.",
    500: "The model fails on its own golden samples, or an error of the server's.",
    501: "A part of the protocol that this server does not have.",
    503: "The model is loading, has failed or was unloaded, or the server is stopping.",
    504: "The deadline passed before the request's turn came.",
}
_INFER_STATUSES = (400, 404, 408, 413, 415, 429, 500, 501, 503, 504)
_PARAMETERS: Schema = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean")]},
}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}


def _tensor(parameters: Schema, more: Schema, required: list[str]) -> Schema:
    properties: Schema = {
        "name": {"type": "string", "minLength": 1},
        "datatype": {"type": "string", "enum": list(DTYPES)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "parameters": _PARAMETERS | {"properties": parameters},
    }
    return {"type": "object", "required": required, "properties": properties | more}


_DATA: Schema = {
    "type": "array",
    "items": {},
    "description": "Elements in row-major order, flat or nested; left out where binary_data_size stands instead. "
    "Not-a-number and infinity leave as null.",
}
_SCHEMAS: dict[str, Schema] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "One sentence."}},
    },
    "InferInput": _tensor({"binary_data_size": _COUNT}, {"data": _DATA}, ["name", "datatype", "shape"]),
    "InferOutput": _tensor({"binary_data_size": _COUNT}, {"data": _DATA}, ["name", "datatype", "shape"]),
    "RequestedOutput": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "parameters": _PARAMETERS | {"properties": {"binary_data": {"type": "boolean"}, "classification": _COUNT}},
        },
    },
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "description": "Comes back with the answer."},
            "parameters": _PARAMETERS
            | {
                "properties": {
                    "binary_data_output": {"type": "boolean"},
                    "timeout": _COUNT | {"description": "Microseconds in which the answer is wanted; 0: no limit."},
                    "priority": {"type": "integer", "minimum": 0, "maximum": 3},
                }
            },
            "inputs": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/InferInput"}},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/RequestedOutput"}},
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/InferOutput"}},
        },
    },
}
CONVERSATION = "conversation"
"""The scheme of routes that are open to all and serve whoever holds a token that an earlier answer gave."""
_KEYS: dict[str, Schema] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
    CONVERSATION: {"type": "http", "scheme": "bearer", "description": "The token that a conversation began with."},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "A person who has signed in."},
}


def infer(*names: str) -> Schema:
    """What to add to the description of a route for inference, whose path has these parameters."""
    header_length: Schema = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Bytes of the JSON part, where binary tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    timeout: Schema = {
        "name": "X-Timeout-Ms",
        "in": "header",
        "description": "Milliseconds in which the answer is wanted; what could not be answered in time is refused.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
    }
    request: Schema = {"schema": {"$ref": "#/components/schemas/InferRequest"}}
    binary: Schema = {"schema": {}}
    answer = {
        "description": "The outputs, as JSON or, where binary ones were asked for, JSON with their bytes after it.",
        "headers": {oip.HEADER_LENGTH: {"schema": {"type": "integer"}, "description": "With binary outputs only."}},
        "content": {_JSON: {"schema": {"$ref": "#/components/schemas/InferResponse"}}, _BINARY: binary},
    }
    return {
        "parameters": [*map(_in_path, names), header_length, timeout],
        "requestBody": {
            "required": True,
            "description": "JSON, or JSON and then the raw bytes of binary tensors. Content-Type is not looked at.",
            "content": {_JSON: request, _BINARY: binary},
        },
        "responses": {"200": answer} | {str(status): refusal(status) for status in _INFER_STATUSES},
    }


def body(properties: Schema, media_type: str = _JSON, **statuses: Schema) -> Schema:
    """What to add to the description of a route that reads a small body by hand."""
    content = {media_type: {"schema": {"type": "object", "properties": properties}}}
    return {"requestBody": {"required": False, "content": content}, "responses": dict(statuses)}


def complete(app: FastAPI, is_open: Callable[[str], bool]) -> None:
    """Let the application describe itself in full; to be called when it has all its routes.

    Args:
        is_open: whether a path is open to all; such a route says itself what it asks for.
    """
    described: Callable[[], Schema] = app.openapi

    def build() -> Schema:
        if app.openapi_schema is None:
            _complete(described(), is_open)  # which FastAPI keeps, and gives from then on
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _complete(schema: Schema, is_open: Callable[[str], bool]) -> None:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas.update(_SCHEMAS)
    components["securitySchemes"] = _KEYS
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if is_open(path):
                operation.setdefault("security", [{}])
            elif path not in PUBLIC_PATHS:
                operation["security"] = [{name: []} for name in _KEYS if name != CONVERSATION]
            for status in _statuses(path, method, operation):
                operation["responses"].setdefault(str(status), refusal(status))
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _as_sent(parameter["schema"])


def _as_sent(schema: Schema) -> Schema:
    """Without the `null` that FastAPI allows wherever a parameter may be left out: no query can say it."""
    branches = [branch for branch in schema.get("anyOf", []) if branch != {"type": "null"}]
    if len(branches) != 1:
        return schema
    return {key: value for key, value in schema.items() if key != "anyOf"} | branches[0]


def _statuses(path: str, method: str, operation: Schema) -> set[int]:
    """With which statuses an operation may refuse, beside those that it names itself."""
    found: set[int] = set()
    if operation["responses"].pop("422", None) is not None or "requestBody" in operation:
        found.add(400)
    if path in PROBE_PATHS:
        return {503} if path.endswith("ready") else set()
    if path not in PUBLIC_PATHS:
        found |= {401, 403, 503}
    if method == "post":
        found |= {403, 408, 413, 429}
    if "{" in path:
        found.add(404)
    return found


def refusal(status: int) -> Schema:
    """How an answer with this status is described."""
    found: Schema = {"description": _WORDS[status], "content": _ERROR}
    if status in (429, 503):
        found["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return found


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
