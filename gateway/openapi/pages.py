"""The document at /openapi.json, and a page at /docs that shows it and tries its routes out.

The page is one file of this package: it loads nothing from anywhere but this gateway, so it works without a network.
"""

from __future__ import annotations

import functools
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from gateway.openapi.document import build_document
from gateway.rest.bodies import json_bytes

_HEADERS = {
    "cache-control": "no-cache",
    # All of the page is in its file; what it may fetch is the gateway's own answers.
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class PageRoutes:
    """Handlers of /openapi.json and /docs."""

    async def document(self, _request: Request) -> Response:
        """GET /openapi.json"""
        return Response(self._document, media_type="application/json")

    async def page(self, _request: Request) -> Response:
        """GET /docs"""
        return Response(self._page, headers=_HEADERS, media_type="text/html")

    @functools.cached_property
    def _document(self) -> bytes:
        return json_bytes(build_document())

    @functools.cached_property
    def _page(self) -> bytes:
        return resources.files("gateway.openapi").joinpath("page.html").read_bytes()
