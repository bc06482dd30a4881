"""The default deployments are valid and point into the state directory; the example model is trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.events import Event, Preparing
from deploy.local.prepare import place_deployments, train_missing_models
from deploy.local.state_dir import StateDir
from mesh.errors import InvalidInput, Unavailable
from mesh.storage.file import local_path


def state_in(tmp_path: Path) -> StateDir:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    return StateDir(folder)


def test_the_default_deployments_are_a_language_model_and_a_classifier(tmp_path: Path) -> None:
    state = state_in(tmp_path)

    path, deployments = place_deployments(state, None)

    smollm2, iris = deployments
    assert path == state.deployments_file
    assert (smollm2.name, smollm2.predictor.model_format) == ("smollm2", "llm")
    assert list(smollm2.transformer.steps) == ["chat_template"]
    assert (iris.name, iris.predictor.model_format) == ("iris", "sklearn")
    assert local_path(iris.predictor.storage_uri) == state.models / "iris"
    assert all(each.HasField("transformer") and each.HasField("explainer") for each in deployments)


def test_a_given_file_is_used_where_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("deployments: [{name: m, predictor: {model_format: llm, storage_uri: 'file:///m.gguf'}}]")

    path, deployments = place_deployments(state_in(tmp_path), file)

    assert path == file
    assert [each.name for each in deployments] == ["m"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent\.yaml"):
        place_deployments(state_in(tmp_path), tmp_path / "absent.yaml")


async def test_the_classifier_is_trained_when_it_is_missing_and_only_then(tmp_path: Path) -> None:
    state, events = state_in(tmp_path), list[Event]()
    _, deployments = place_deployments(state, None)

    await train_missing_models(state, deployments, events.append)
    await train_missing_models(state, deployments, events.append)

    assert events == [Preparing("training the iris classifier")]
    assert (state.models / "iris" / "model.skops").is_file()


async def test_nothing_is_trained_that_no_deployment_wants(tmp_path: Path) -> None:
    state = state_in(tmp_path)

    await train_missing_models(state, [], lambda _: None)

    assert not state.models.exists()


async def test_a_training_that_fails_is_a_sentence_with_its_log(tmp_path: Path) -> None:
    state = state_in(tmp_path)
    _, deployments = place_deployments(state, None)
    state.models.write_text("a file where the folder should be")

    with pytest.raises(Unavailable, match=r"examples\.train_iris ended with status 1: .*train_iris\.log"):
        await train_missing_models(state, deployments, lambda _: None)
