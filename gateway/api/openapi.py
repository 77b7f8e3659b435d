"""The OpenAPI document, made from the route table and the msgspec types; no route is served and left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gateway import __version__
from gateway.api.media import JSON, MSGPACK, ErrorBody, describe
from gateway.api.route import ANYBODY, OPERATOR, USER, Query, Route
from gateway.auth.api_keys import OPERATOR_ONLY
from gateway.model.errors import Forbidden, GatewayError, Unauthorized

_REF = "#/components/schemas/{name}"
_ABOUT = """Push to opaque tokens; accepted pushes are never lost.

Bodies are JSON or msgpack, by `Content-Type` and `Accept`. Every error has the shape of `ErrorBody`; where trying
again may help it says after how long, in `retry_after_ms` and in `Retry-After`. Unknown, revoked and foreign tokens and
pushes get the same answer."""
_GROUPS = {
    "apps": "For the operator: apps and their keys",
    "push": "Send, look up, recall",
    "receipts": "What became of them",
    "registrations": "Who can be pushed to",
    "subscribers": "Opaque ids that stand for subscribers of an operator's network",
    "cards": "SIM cards and what is known of their terminals",
    "downloads": "What is brought to cards over the air",
    "campaigns": "The same commands for many cards",
    "im": "For users of IM: the key that verification gave (`usk_…`) says who asks",
    "webpush": "Web Push (RFC 8030, 8291, 8292) and UnifiedPush: the URL is the address and the right to use it",
    "t8": "Device triggering (3GPP TS 29.122)",
    "apns": "What libraries for Apple's push service speak",
    "media": "Pictures, clips and files of IM users: resumable uploads (tus 1.0), signed links",
    "operations": "Health and figures",
}
_STATUS = {
    200: "Done",
    201: "Accepted: durable, or acked already",
    202: "Accepted; a receipt follows",
    204: "Done",
    400: "The request is not right; the message says which field and why",
    401: "No key, or a wrong one",
    403: "The key may not do this",
    404: "Not there, or not yours",
    405: "Not with this method",
    408: "Headers or body came too slowly",
    409: "In conflict with what is there",
    410: "It was there and has ended",
    412: "Not this version of the protocol",
    413: "Too large",
    415: "Not a content type taken here",
    429: "Too many; come back later",
    460: "The checksum is another",
    500: "The gateway failed",
    503: "Not now; come back later",
}


def build_document(routes: Iterable[Route]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    shown = [route for route in routes if not route.hidden]
    types = [t for route in shown for t in (route.takes, route.gives) if t is not None]
    types += [t for route in shown for _, t in route.gives_also]
    types += [route.dialect.shape for route in shown if route.dialect is not None]
    schemas, components = msgspec.json.schema_components([*types, ErrorBody], ref_template=_REF)
    schema_of = {repr(t): schema for t, schema in zip([*types, ErrorBody], schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Heliograph",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": about} for name, about in _GROUPS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A provider key of an app, or the operator's key: `hk_<id>_<secret>`",
                },
                "session": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A user's session key: `usk_<secret>`",
                },
            },
        },
    }


def _operation(route: Route, schema_of: dict[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "_", f"{route.method}{route.path}".lower()).strip("_")
    out: dict[str, Any] = {"operationId": name, "tags": [route.group], "summary": route.summary}
    if route.about:
        out["description"] = route.about
    params = [_parameter(p) for p in _path_params(route.path)]
    params += [_parameter(p) for p in route.params]
    if params:
        out["parameters"] = params
    if route.caller == USER:
        out["security"] = [{"session": []}]
    elif route.caller != ANYBODY:
        out["security"] = [{"key": []}]
    if route.takes is not None:
        body = {"schema": schema_of[repr(route.takes)]}
        if route.example is not None:
            body["example"] = route.example
        kinds = (JSON, MSGPACK, *route.takes_also)
        out["requestBody"] = {"required": not route.takes_optional, "content": dict.fromkeys(kinds, body)}
    elif route.takes_media:
        raw = {"schema": {"type": "string", "format": "binary"}}
        if route.example is not None:
            raw = {"schema": {"type": "object"}, "example": route.example}
        out["requestBody"] = {"required": not route.takes_optional, "content": {route.takes_media: raw}}
    out["responses"] = _responses(route, schema_of)
    return out


def _path_params(path: str) -> list[Query]:
    return [Query(name, "", kind="string", place="path", required=True) for name in re.findall(r"{(\w+)}", path)]


def _parameter(param: Query) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": param.kind}
    for name, bound in (("minimum", param.low), ("maximum", param.high)):
        if bound is not None:
            schema[name] = bound
    out: dict[str, Any] = {"name": param.name, "in": param.place, "schema": schema}
    if param.about:
        out["description"] = param.about
    if param.required:
        out["required"] = True
    return out


def _responses(route: Route, schema_of: dict[str, Any]) -> dict[str, Any]:
    done: dict[str, Any] = {"description": _STATUS[route.status]}
    if route.gives is not None or route.gives_media:
        schema = schema_of[repr(route.gives)] if route.gives is not None else {"type": "string"}
        content: dict[str, Any] = {"schema": schema}
        if route.gives_example is not None:
            content["example"] = route.gives_example
        kinds = (route.gives_media,) if route.gives_media else (JSON, MSGPACK)
        done["content"] = dict.fromkeys(kinds, content)
    out: dict[str, Any] = {str(route.status): done}
    for status, about in route.also:
        out[str(status)] = {**done, "description": about}
    for status, other in route.gives_also:
        content = {"schema": schema_of[repr(other)]}
        out[str(status)]["content"] = {JSON: content, MSGPACK: content}
    errors: list[type[GatewayError]] = [*route.errors]
    if route.caller not in (ANYBODY, USER):
        errors += [Unauthorized, Forbidden]
    for status in sorted({error.status for error in errors}):
        out[str(status)] = _error_response(status, [e for e in errors if e.status == status], schema_of, route)
    return out


def _error_response(
    status: int, errors: Sequence[type[GatewayError]], schema_of: dict[str, Any], route: Route
) -> dict[str, Any]:
    if route.dialect is not None:
        shape = {"schema": schema_of[repr(route.dialect.shape)]}
        return {"description": _STATUS[status], "content": {route.dialect.media: shape}}
    examples = {}
    for cls in errors:
        error = cls(_forbidden_text(route)) if cls is Forbidden else cls()
        body = ErrorBody(error=describe(error))
        examples[cls.name] = {"summary": cls.summary, "value": msgspec.to_builtins(body)}
    out: dict[str, Any] = {
        "description": _STATUS[status],
        "content": {JSON: {"schema": schema_of[repr(ErrorBody)], "examples": examples}},
    }
    if any(error.retryable for error in errors):
        out["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    if status == 401:
        out["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return out


def _forbidden_text(route: Route) -> str:
    return OPERATOR_ONLY if route.caller == OPERATOR else ""


def build_document_3_0(document: dict[str, Any]) -> dict[str, Any]:
    """The same for tools that know 3.0 only, such as the page served here: null types and constants the old way."""
    out: dict[str, Any] = _older(document)
    out["openapi"] = "3.0.3"
    out["info"]["license"].pop("identifier", None)
    return out


def _older(node: Any) -> Any:
    if isinstance(node, list):
        return [_older(item) for item in node]
    if not isinstance(node, dict):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        # An example is data, not schema.
        out[key] = value if key in ("example", "examples", "default", "enum", "required") else _older(value)
    if "const" in out:
        out["enum"] = [out.pop("const")]
    options = out.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        del out["anyOf"]
        out["nullable"] = True
        if len(rest) == 1 and "$ref" not in rest[0]:
            out = {**rest[0], **out}
        else:
            out["allOf" if len(rest) == 1 else "anyOf"] = rest
    if out.get("type") == "null":
        out = {"nullable": True, "enum": [None]}
    out.pop("propertyNames", None)
    if out.get("required") == []:
        del out["required"]
    return out
