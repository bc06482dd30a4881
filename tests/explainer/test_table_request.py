"""What a request and a configuration say is read as it is meant; what is wrong with requests is test_tables'."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from explainer.table_request import read_facts, read_input, read_table
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, encode_request

Config = Callable[..., oip.ModelConfig]


def request(rows: np.ndarray) -> oip.ModelInferRequest:
    made = oip.ModelInferRequest()
    encode_request(made, [Tensor("input", "FP32", rows)])
    return made


def test_a_bare_configuration_gives_generic_names_and_a_baseline_of_zeros() -> None:
    infer = request(np.ones((2, 3), dtype=np.float32))

    table = read_table(read_input(infer), infer, read_facts(oip.ModelConfig()))

    assert (table.name, table.datatype, table.features) == ("input", "FP32", ["input[0]", "input[1]", "input[2]"])
    np.testing.assert_array_equal(table.baseline, [0, 0, 0])
    assert table.rows.dtype == np.float64


def test_lists_for_another_number_of_features_are_not_used(table_config: Config) -> None:
    infer = request(np.ones((1, 2), dtype=np.float32))
    facts = read_facts(table_config(feature_names=["a"], feature_baseline=[1, 2, 3]))

    table = read_table(read_input(infer), infer, facts)

    assert table.features == ["input[0]", "input[1]"]
    np.testing.assert_array_equal(table.baseline, [0, 0])


def test_reading_a_configuration_leaves_it_as_it_was() -> None:
    config = oip.ModelConfig(name="m")

    read_facts(config)

    assert config == oip.ModelConfig(name="m")
