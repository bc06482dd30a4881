"""The gRPC front of ExplainService: decode, one call, encode."""

from __future__ import annotations

import grpc.aio

from explainer.explanations import Explanations
from mesh.v1 import explain_pb2
from mesh.v1.explain_pb2_grpc import ExplainServiceServicer


class ExplainerServicer(ExplainServiceServicer):
    """`mesh.v1.ExplainService`."""

    def __init__(self, explanations: Explanations) -> None:
        self._explanations = explanations

    async def Explain(
        self,
        request: explain_pb2.ExplainRequest,
        context: grpc.aio.ServicerContext[explain_pb2.ExplainRequest, explain_pb2.ExplainResponse],
    ) -> explain_pb2.ExplainResponse:
        return await self._explanations.explain(request)
