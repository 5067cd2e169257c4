"""The OpenAPI document: FastAPI's, with our errors instead of its own, and who may ask."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from workers.entrypoints.api.problems import ErrorBody, ProblemBody

SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Access token of Keycloak, or of a ServiceAccount"},
    "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "Works once; see POST ticket"},
}


def document(app: FastAPI, base: str) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with our errors instead of its own."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        parts = found.setdefault("components", {}).setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            parts.pop(unused, None)
        for model in (ErrorBody, ProblemBody):
            parts[model.__name__] = model.model_json_schema()
        if not app.state.insecure:
            found["components"]["securitySchemes"] = SCHEMES
        for path, operations in found["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                for parameter in operation.get("parameters", ()):
                    parameter["schema"] = _said(parameter["schema"])
                if path.startswith(base) and not app.state.insecure:
                    ticket: list[dict[str, list[str]]] = [{"ticket": []}] if path.endswith("/events") else []
                    operation["security"] = [{"bearer": []}, *ticket]
        app.openapi_schema = found
    return app.openapi_schema


def _said(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not given is absent; the word `null` in a header is no value."""
    values = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(values) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **values[0]}
