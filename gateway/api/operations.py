"""Health, readiness, metrics, the API's description and the page to try it; no key needed, no subscriber told."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import swagger_ui_bundle
from msgspec import UNSET
from starlette.responses import RedirectResponse, Response

from gateway.api.call import Call
from gateway.api.ports import Backend
from gateway.api.wire import Health, Readiness, UnservedPartition
from gateway.metrics.sink import CONTENT_TYPE
from gateway.model.errors import NotFound

_ASSETS = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_PAGE = Path(__file__).with_name("docs.html")
#: nothing from elsewhere, no inline script but the page's own (by its hash)
_POLICY = (
    "default-src 'none'; script-src 'self' '{script}'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HARDENED = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


class OperationRoutes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        #: set by build_routes once they are known; empty where the door in front of this one describes itself
        self.openapi = b""
        self.openapi_for_page = b""
        page = _PAGE.read_bytes()
        script = page.partition(b"<script>")[2].partition(b"</script>")[0]
        digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
        self._page = page
        self._policy = _POLICY.format(script=f"sha256-{digest}")
        self._assets: dict[str, bytes] = {}  # read when first asked for

    async def alive(self, call: Call) -> Response:
        return call.answer(Health())

    async def ready(self, call: Call) -> Response:
        reasons = list(self._backend.readiness())
        if self._backend.stopping.is_set and "draining" not in reasons:
            reasons.append("draining")
        headers = {"retry-after": "1"} if reasons else {}
        # the same at every node of the fleet: whoever went by it would take all of them out of service at once
        unserved = [UnservedPartition(**each._asdict()) for each in self._backend.stranded()]
        return call.answer(
            Readiness(ready=not reasons, reasons=reasons, unserved=unserved or UNSET),
            status=503 if reasons else 200,
            headers=headers,
        )

    async def metrics(self, call: Call) -> Response:  # noqa: ARG002
        return Response(self._backend.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def description(self, call: Call) -> Response:  # noqa: ARG002
        return _description(self.openapi)

    async def page_description(self, call: Call) -> Response:  # noqa: ARG002
        return _description(self.openapi_for_page)

    async def home(self, call: Call) -> Response:  # noqa: ARG002
        return RedirectResponse("/docs", status_code=307)

    async def page(self, call: Call) -> Response:  # noqa: ARG002
        headers = {**_HARDENED, "content-security-policy": self._policy, "cache-control": "no-cache"}
        return Response(self._page, media_type="text/html", headers=headers)

    async def asset(self, call: Call) -> Response:
        name = call.path("name")
        if name not in _ASSETS:  # a closed list: no path is ever made of the request
            raise NotFound
        body = self._assets.get(name)
        if body is None:
            body = self._assets[name] = _read_asset(name)
        headers = {**_HARDENED, "content-type": _ASSETS[name], "cache-control": "public, max-age=86400"}
        return Response(body, headers=headers)


def _description(document: bytes) -> Response:
    if not document:
        raise NotFound
    return Response(document, media_type="application/json")


def _read_asset(name: str) -> bytes:
    return Path(str(swagger_ui_bundle.swagger_ui_path), name).read_bytes()
