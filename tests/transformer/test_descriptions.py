"""What is known of models is asked once, bounded, and dropped when it is out of date."""

from __future__ import annotations

import pytest

from mesh.errors import Unavailable
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.registry_pb2 import Deployment, PredictorSpec
from transformer.descriptions import Descriptions


class Models:
    """Counts questions; answers with a digest that can be changed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.digest = "d1"
        self.is_away = False

    async def describe(self, request: lm.DescribeModelRequest) -> lm.DescribeModelResponse:
        self.asked.append((request.model_name, request.model_version))
        if self.is_away:
            raise Unavailable("away")
        return lm.DescribeModelResponse(model_digest=self.digest, chat_template="t", bos_token="<s>")


def deployment(name: str = "m", **fields: object) -> Deployment:
    return Deployment(name=name, predictor=PredictorSpec(sha256="a"), **fields)


async def test_a_model_is_asked_once_per_version() -> None:
    models = Models()
    descriptions = Descriptions(models.describe)

    for version in ("", "", "2", ""):
        model = await descriptions.get(deployment(), version)

    assert models.asked == [("m", ""), ("m", "2")]
    assert (model.name, model.digest, model.bos_token, model.eos_token) == ("m", "d1", "<s>", "")


async def test_another_generation_or_artifact_is_asked_for() -> None:
    models = Models()
    descriptions = Descriptions(models.describe)

    await descriptions.get(deployment(), "")
    await descriptions.get(deployment(generation=2), "")
    await descriptions.get(Deployment(name="m", predictor=PredictorSpec(sha256="b")), "")

    assert len(models.asked) == 3


async def test_an_answer_of_another_artifact_drops_what_is_known() -> None:
    models = Models()
    descriptions = Descriptions(models.describe)
    await descriptions.get(deployment(), "")

    descriptions.answered_by(deployment(), "", "d1")
    descriptions.answered_by(deployment(), "", "")  # a predictor that does not say
    await descriptions.get(deployment(), "")
    assert len(models.asked) == 1

    descriptions.answered_by(deployment(), "", "d2")
    await descriptions.get(deployment(), "")
    assert len(models.asked) == 2


async def test_the_least_recently_used_is_forgotten() -> None:
    models = Models()
    descriptions = Descriptions(models.describe, capacity=2)

    for name in ("a", "b", "a", "c", "a", "b"):
        await descriptions.get(deployment(name), "")

    assert [name for name, _ in models.asked] == ["a", "b", "c", "b"]


async def test_a_failure_is_not_kept() -> None:
    models = Models()
    models.is_away = True
    descriptions = Descriptions(models.describe)
    with pytest.raises(Unavailable):
        await descriptions.get(deployment(), "")

    models.is_away = False

    assert (await descriptions.get(deployment(), "")).chat_template == "t"
