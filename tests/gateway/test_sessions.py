"""Requests of one session through a whole gateway: with consistent hashing they meet at one replica, by every front."""

from __future__ import annotations

from pathlib import Path

from mesh import context
from tests.gateway.test_dispatch import by_grpc_generate, by_grpc_infer, by_openai, by_stream_infer, by_v1, by_v2
from tests.gateway.traffic_rig import VersionedPredictor, deployment, traffic_mesh

FRONTS = (by_v1, by_v2, by_openai, by_grpc_infer, by_stream_infer, by_grpc_generate)


async def test_one_session_is_at_one_replica_by_every_front_and_goes_on_to_the_next_hop(tmp_path: Path) -> None:
    predictors = [VersionedPredictor(("1",)) for _ in range(3)]
    async with traffic_mesh(tmp_path, balancing="consistent_hash") as mesh:
        await mesh.apply(deployment("iris", ["1"]), deployment("chat", ["1"], model_format="llm"))
        for predictor in predictors:
            await mesh.serve(predictor, "iris", "chat")

        for number in range(6):
            for front in FRONTS:
                await front(mesh, {"x-session-id": f"user {number}"})

    for session in (context.session_from(f"user {number}") for number in range(6)):
        asked = [predictor.sessions.count(session) for predictor in predictors]
        # What a front asks of the model itself (names of tensors) bears the session as well.
        assert max(asked) == sum(asked) >= len(FRONTS), session
    assert sum(bool(predictor.sessions) for predictor in predictors) > 1
