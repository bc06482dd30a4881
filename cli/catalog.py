"""What a mesh serves, as its gateway says it: name, version, state and platform of each model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cli.failure import Failure
from cli.gateway_client import GatewayClient

READY = "READY"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model. `state` is Triton's word ("READY", "LOADING", "UNAVAILABLE"), `reason` why it is not ready.

    `platform` says what runs it ("llm", "sklearn", …); empty where the model cannot say it yet.
    """

    name: str
    version: str
    state: str
    reason: str
    platform: str


def served_models(gateway: GatewayClient) -> list[ServedModel]:
    """All models, by name. Raises Failure."""
    index = gateway.post("/v2/repository/index", {})
    return sorted((_served(gateway, entry) for entry in index), key=lambda model: model.name)


def metadata_of(gateway: GatewayClient, model: str) -> Any:
    """The model's OIP metadata: name, versions, platform, inputs, outputs. Raises Failure."""
    return gateway.get(f"/v2/models/{quote(model, safe='')}")


def chat_model(gateway: GatewayClient, wanted: str | None) -> str:
    """The model to chat with: the wanted one, else the first language model. Raises Failure when there is none."""
    if wanted is not None:
        return wanted
    models = served_models(gateway)
    for model in models:
        if "llm" in model.platform:
            return model.name
    served = ", ".join(model.name for model in models) or "nothing"
    raise Failure(f"no language model is ready (served: {served})", "`meshserve status` says what is missing")


def _served(gateway: GatewayClient, entry: Any) -> ServedModel:
    name, state = str(entry["name"]), str(entry.get("state", ""))
    platform = ""
    if state == READY:
        platform = str(metadata_of(gateway, name).get("platform", ""))
    return ServedModel(name, str(entry.get("version", "")), state, str(entry.get("reason", "")), platform)
