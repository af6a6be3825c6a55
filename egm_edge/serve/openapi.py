"""The OpenAPI document of the server, made from the pydantic models of the request and from one list of routes."""

from __future__ import annotations

from typing import Any

from egm_edge import __version__
from egm_edge.openai import CHAT_PATH, MODELS_PATH
from egm_edge.serve.schema import ChatRequest

_REF = "#/components/schemas/"


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(required: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": required}


_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_ANY_OBJECT = {"type": "object"}
_ERROR = _object(
    {"error": _object({"message": _TEXT, "type": _TEXT, "code": _TEXT, "param": {"type": ["string", "null"]}})}
)
_CHOICE = _object(
    {
        "index": _COUNT,
        "message": _object({"role": {"const": "assistant"}, "content": {"type": ["string", "null"]}}),
        "finish_reason": {"enum": ["stop", "length"]},
    }
)
_USAGE = _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_COMPLETION = _object(
    {
        "id": _TEXT,
        "object": {"const": "chat.completion"},
        "created": _COUNT,
        "model": _TEXT,
        "choices": {"type": "array", "items": _CHOICE, "minItems": 1, "maxItems": 1},
        "usage": _USAGE,
        "egm": _ANY_OBJECT
        | {
            "description": "the Grounding: outcome, box in pixels, reasoning, timings, ..., and which fields were ignored"
        },
    }
)
_MODEL = _object({"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT})
_MODELS = _object({"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}})
_STATUS = _object({"status": _TEXT})
_REFUSALS = {
    400: "not usable; the message names the field",
    401: "no key, or the wrong one",
    403: "a host name that this server does not go by",
    404: "no such model",
    408: "the body came too slowly",
    413: "too many bytes or pixels",
    415: "not application/json",
    429: "busy; see Retry-After",
    503: "stopping",
    504: "out of the server's time",
}


def _refusals(*statuses: int) -> dict[str, Any]:
    return {str(status): _json(_REFUSALS[status], {"$ref": f"{_REF}Error"}) for status in statuses}


def _route(name: str, summary: str, responses: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"summary": summary, "operationId": name, **more, "responses": responses}


def openapi_document(*, with_key: bool) -> dict[str, Any]:
    """OpenAPI 3.1 of every route but the page's files."""
    chat = ChatRequest.model_json_schema(ref_template=_REF + "{model}")
    schemas = chat.pop("$defs", {}) | {"ChatRequest": chat, "Error": _ERROR}
    answer = {
        "description": "The answer; server-sent events of chat.completion.chunk with stream: true.",
        "content": {"application/json": {"schema": _COMPLETION}, "text/event-stream": {"schema": _TEXT}},
    }
    plain = {"description": "Prometheus text.", "content": {"text/plain": {"schema": _TEXT}}}
    model_id = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
    everywhere = _refusals(403)
    v1 = everywhere | _refusals(401)
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"{_REF}ChatRequest"}}}}
    refused = _refusals(400, 404, 408, 413, 415, 429, 503, 504)
    one_model = {"200": _json("It.", _MODEL)} | v1 | _refusals(404)
    ready = {"200": _json("Ready.", _STATUS), "503": _json("Stopping.", _STATUS)} | everywhere
    chat_route = _route("chat", "Ground one sentence on one picture", {"200": answer} | v1 | refused, requestBody=body)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "egm-edge", "version": __version__, "summary": "Boxes for sentences, in OpenAI's protocol"},
        "paths": {
            CHAT_PATH: {"post": chat_route},
            MODELS_PATH: {"get": _route("models", "The model", {"200": _json("One.", _MODELS)} | v1)},
            MODELS_PATH + "/{model}": {"get": _route("model", "One model", one_model, parameters=[model_id])},
            "/health": {"get": _route("health", "The process answers", {"200": _json("Alive.", _STATUS)} | everywhere)},
            "/ready": {"get": _route("ready", "Requests are accepted", ready)},
            "/metrics": {"get": _route("metrics", "Prometheus", {"200": plain} | everywhere)},
        },
        "components": {"schemas": schemas},
    }
    if with_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path.startswith("/v1/"):
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return document
