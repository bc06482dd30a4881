"""The V1 protocol's rows and bodies."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.openapi.operation import STRING, Operation, Schema, example_of

TAG = "V1"

_ROWS: Schema = {
    "type": "array",
    "minItems": 1,
    "description": 'An element per instance: a value, or an object of values by input; bytes are {"b64": …}.',
}

SCHEMAS: dict[str, Schema] = {
    "V1Request": {
        "type": "object",
        "properties": {
            "instances": _ROWS,
            "inputs": {"anyOf": [{"type": "object", "description": "Whole columns by input."}, _ROWS]},
            "parameters": {"type": ["object", "null"], "description": "Sampling parameters for language models."},
            "method": {"type": "string", "description": "How to explain; for :explain only."},
        },
        "anyOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
    "V1Predictions": {
        "anyOf": [
            {
                "type": "object",
                "properties": {"predictions": {"type": ["array", "object"]}},
                "required": ["predictions"],
            },
            {"type": "object", "properties": {"outputs": {"type": "object"}}, "required": ["outputs"]},
        ]
    },
    "V1Explanations": {
        "type": "object",
        "properties": {
            "explanations": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "target": STRING,
                        "score": {"type": ["number", "null"]},
                        "base_score": {"type": ["number", "null"]},
                        "rendered_prompt": STRING,
                        "attributions": {"type": "array", "items": {"type": "object", "required": ["name", "value"]}},
                    },
                    "required": ["target", "score", "attributions"],
                },
            }
        },
        "required": ["explanations"],
    },
}


def operations() -> Iterator[Operation]:
    """All rows of the protocol; its list of models is OpenAI's."""
    body = example_of({"$ref": "#/components/schemas/V1Request"}, {"instances": [[5.1, 3.5, 1.4, 0.2]]})
    for verb, answer, summary in (
        ("predict", "V1Predictions", "Run a model on rows"),
        ("explain", "V1Explanations", "Say what an answer owes to its input"),
    ):
        schema: Schema = {"$ref": f"#/components/schemas/{answer}"}
        yield Operation("POST", f"/v1/models/{{model}}:{verb}", TAG, summary, schema, body)
    alive: Schema = {"type": "object", "properties": {"status": {"const": "alive"}}, "required": ["status"]}
    yield Operation("GET", "/", TAG, "Is the server alive?", alive)
