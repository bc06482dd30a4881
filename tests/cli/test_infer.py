"""`meshserve infer`: typed data becomes the model's tensors; the outputs become a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_rows_become_the_models_input(fake_gateway: Any, run_cli: Any) -> None:
    result = run_cli("infer", "iris", "--data", "[[1, 2, 3, 4], [5, 6, 7, 8]]", "--gateway", fake_gateway.url)

    assert result.status == 0
    assert fake_gateway.bodies[0]["inputs"] == [
        {"name": "input", "datatype": "FP64", "shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    ]
    lines = [line.split() for line in result.out.splitlines()]
    assert lines == [["row", "label", "probabilities"], ["0", "0", "0.25,", "0.75"], ["1", "1", "0.25,", "0.75"]]


def test_json_is_what_the_gateway_said(fake_gateway: Any, run_cli: Any) -> None:
    result = run_cli("infer", "iris", "-d", '{"input": [[1, 2, 3, 4]]}', "--json", "--gateway", fake_gateway.url)

    assert json.loads(result.out)["outputs"][0]["name"] == "label"


def test_data_comes_from_a_file(fake_gateway: Any, run_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[[1, 2, 3, 4]]")

    result = run_cli("infer", "iris", "-d", f"@{tmp_path / 'rows.json'}", "--gateway", fake_gateway.url)

    assert result.status == 0
    assert fake_gateway.bodies[0]["inputs"][0]["shape"] == [1, 4]


def test_an_unknown_model_is_the_gateways_sentence_and_an_advice(fake_gateway: Any, run_cli: Any) -> None:
    result = run_cli("infer", "nope", "-d", "[[1]]", "--gateway", fake_gateway.url)

    assert result.status == 1
    assert result.err == (
        "meshserve: model 'nope' is not deployed; deployed: iris, smollm2; `meshserve models` lists what is served\n"
    )


def test_no_mesh_is_a_sentence_with_the_way_out(run_cli: Any) -> None:
    result = run_cli("infer", "iris", "-d", "[[1]]", "--gateway", "http://127.0.0.1:1")

    assert result.status == 1
    assert result.err == (
        "meshserve: no mesh answers at http://127.0.0.1:1; "
        "start one with `meshserve up`, or name another with --gateway URL\n"
    )


def test_no_grpc_gateway_is_a_sentence(run_cli: Any) -> None:
    result = run_cli("infer", "iris", "-d", "[[1]]", "--grpc-address", "127.0.0.1:1", "--timeout", "5")

    assert result.status == 1
    assert result.err == "meshserve: no gateway answers at 127.0.0.1:1 (gRPC); look at `meshserve status`\n"


def test_a_missing_option_is_a_usage_error(run_cli: Any) -> None:
    result = run_cli("infer", "iris")

    assert result.status == 2
    assert "--data" in result.err
