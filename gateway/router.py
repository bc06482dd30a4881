"""From a path to its handler: the table of routes, first match first.

Starlette's own application puts two layers around its router that catch errors; here the edge does that for every
request alike, so a request passes neither. What is raised goes to the edge; only 404 and 405 are answered here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.rest.errors import protocol_of, routing_error_response
from gateway.rest.sse import exchange_of

Handler = Callable[[Request], Awaitable[Response]]


class Router:
    """The innermost ASGI application."""

    def __init__(self, routes: list[Route]) -> None:
        """routes: with path parameters that are strings."""
        self._routes = [(route, route.path_regex.match, cast(Handler, route.endpoint)) for route in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await self._handler(scope)(request)
        except HTTPException as error:
            exchange_of(request).error = str(error.detail)
            response = routing_error_response(protocol_of(scope["path"]), scope["method"], error)
        await response(scope, receive, send)

    def _handler(self, scope: Scope) -> Handler:
        """The handler, its route noted in the scope. Raises HTTPException for 404 and 405."""
        path, method = scope["path"], scope["method"]
        allowed: set[str] = set()
        for route, matches, handler in self._routes:
            found = matches(path)
            if found is None:
                continue
            methods = route.methods or set()
            # A wrong method is counted for the route as well.
            scope.setdefault("route", route)
            if method in methods:
                scope["route"] = route
                scope["path_params"] = found.groupdict()
                return handler
            allowed |= methods
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})
        raise HTTPException(404)
