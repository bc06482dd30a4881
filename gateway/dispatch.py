"""Sends a request where its deployment's traffic says, and to the deployment's fallback when no replica can answer.

What a call is made of is its caller's: here it is a function of a route. Nothing is noted, and nothing costs much, for
a deployment with one version and no traffic set.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from gateway.exchange import Exchange
from gateway.traffic import Arm, Route, fallback_route, has_choice, route_of
from mesh import context
from mesh.deployments import is_language_model
from mesh.errors import Unavailable
from mesh.logs import get_logger
from mesh.model_health import is_ready
from mesh.v1.registry_pb2 import Deployment
from mesh.view import MeshView

T = TypeVar("T")

log = get_logger(__name__)


class Dispatch:
    """Routes calls by the newest view."""

    def __init__(self, view: Callable[[], MeshView], rng: random.Random | None = None) -> None:
        self._view = view
        self._rng = rng or random.Random()
        self._seen: MeshView | None = None
        self._served: dict[tuple[str, str], bool] = {}

    async def unary(
        self, deployment: Deployment, version: str, exchange: Exchange, at: Callable[[Route], Awaitable[T]]
    ) -> T:
        """What `at` gives for the route of the exchange's requests for this version; empty: that name none.

        Raises what `at` raises; an Unavailable only when the fallback cannot be asked, or raises it as well.
        """
        route = self._route(deployment, version, exchange)
        try:
            return await at(route)
        except Unavailable as error:
            fallback = self._fallback(route, error, exchange)
            if fallback is None:
                raise
        return await at(fallback)

    def stream(
        self, deployment: Deployment, version: str, exchange: Exchange, at: Callable[[Route], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        """As `unary`, for a stream: the fallback is asked only before the first message. To be closed."""
        route = self._route(deployment, version, exchange)
        return self._with_fallback(route, exchange, at) if route.deployment.traffic.fallback else at(route)

    async def _with_fallback(
        self, route: Route, exchange: Exchange, at: Callable[[Route], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        has_begun = False
        try:
            async with aclosing(at(route)) as messages:
                async for message in messages:
                    has_begun = True
                    yield message
            return
        except Unavailable as error:
            fallback = None if has_begun else self._fallback(route, error, exchange)
            if fallback is None:
                raise
        async with aclosing(at(fallback)) as messages:
            async for message in messages:
                yield message

    def _route(self, deployment: Deployment, version: str, exchange: Exchange) -> Route:
        if not has_choice(deployment):
            return Route(deployment, deployment.name, version)
        # A request can cause several calls: one client's request is not divided.
        key = (deployment.name, version)
        route = exchange.routes.get(key)
        if route is None:
            route = exchange.routes[key] = self._decided(deployment, version, exchange)
            exchange.note_route(route)
        return route

    def _decided(self, deployment: Deployment, version: str, exchange: Exchange) -> Route:
        # Chance divides what asks a model for something. What describes one (metadata, tokens) is of the version that
        # rules or the session say, else of the deployed one.
        draw = self._rng.random if exchange.is_prediction else _never
        return route_of(deployment, version, context.header, draw, lambda one: self._is_served(deployment.name, one))

    def _is_served(self, name: str, version: str) -> bool:
        """Whether a replica has this version ready; looked up once for each view."""
        view = self._view()
        if view is not self._seen:
            self._seen, self._served = view, {}
        key = (name, version)
        served = self._served.get(key)
        if served is None:
            served = self._served[key] = is_ready(view, name, version)
        return served

    def _fallback(self, route: Route, error: Unavailable, exchange: Exchange) -> Route | None:
        """The route to the deployment that stands in; None when there is none, or the request insists on a version."""
        name = route.deployment.traffic.fallback
        if not name or route.arm is Arm.NAMED or route.is_fallback:
            return None
        fallback = self._view().deployments.get(name)
        if fallback is None or is_language_model(fallback) != is_language_model(route.deployment):
            reason = "it is not deployed" if fallback is None else "it takes other requests"
            log.info("fallback_unusable", deployment=route.deployment.name, fallback=name, reason=reason)
            return None
        log.info("fallback_used", deployment=route.deployment.name, fallback=name, reason=error.message)
        taken = fallback_route(route, fallback)
        # What else the client's request causes goes there at once: another look at the first would cost its time.
        exchange.routes[route.asked_name, ""] = taken
        exchange.note_route(taken)
        return taken


def _never() -> float:
    """A draw that no percent reaches."""
    return 1.0
