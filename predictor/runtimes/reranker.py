"""Relevance of documents to queries by cross-encoders: BERT or RoBERTa with a classifier on the first token.

A model is a folder as `embedding` takes it, whose weights hold a head too. Scores are those of sentence-transformers'
`CrossEncoder.predict`: the activation that `config.json` names, else a sigmoid for one label and nothing for several.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mesh.errors import Unsupported
from mesh.names import shown
from predictor.encoder.batches import Batch
from predictor.encoder.classifier import ACTIVATIONS, Classifier
from predictor.encoder.config import EncoderConfig
from predictor.encoder.folder import DTYPES, longest_input, open_folder
from predictor.encoder.tokenizer import EncoderTokenizer, check_room
from predictor.llm.weights.json_object import JsonObject
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.runtimes.encoding import EncodingJobs, EncodingOptions, check_choice, texts_of
from predictor.runtimes.options import read_options

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class RerankerOptions(EncodingOptions):
    """activation: auto (as the model's files say), sigmoid, softmax or identity.

    truncate: as in EncodingOptions, but true unless it is turned off: a document is cut where it does not fit beside
    its query, as all rerankers do it.
    """

    truncate: bool = True
    activation: str = AUTO

    def __post_init__(self) -> None:
        # The plain super() does not know the class that slots=True makes.
        EncodingOptions.__post_init__(self)
        check_choice("activation", self.activation, (AUTO, *ACTIVATIONS))


@dataclass(frozen=True, slots=True)
class _Model:
    """A loaded model: `compute` gives float32 [pairs, num_labels]."""

    config: EncoderConfig
    classifier: Classifier
    tokenizer: EncoderTokenizer
    activation: str
    max_tokens: int
    num_bytes: int

    def compute(self, batch: Batch) -> torch.Tensor:
        return ACTIVATIONS[self.activation](self.classifier(batch))


class RerankerRuntime:
    """Inputs `query` and `document`, BYTES [n], the pairs; outputs `score` and `num_tokens`, INT64 [n].

    score: FP32 [n] with one label, [n, num_labels] with several.
    """

    def __init__(self) -> None:
        self._jobs: EncodingJobs | None = None
        self._metadata: ModelMetadata | None = None
        self._options = RerankerOptions()
        self._memory_bytes = 0

    @property
    def metadata(self) -> ModelMetadata:
        assert self._metadata is not None, "load() comes first"
        return self._metadata

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        options = self._options = read_options(artifact.options, RerankerOptions)
        progress("load", 0, 1)
        model = await asyncio.to_thread(_read, artifact.path, options)
        config = model.config
        self._memory_bytes = model.num_bytes + options.activation_bytes(config.hidden_size, config.intermediate_size)
        self._metadata = _metadata(model, options)
        self._jobs = EncodingJobs(artifact.name, options, model.tokenizer, model.compute, width=config.num_labels)
        progress("load", 1, 1)

    async def warm(self) -> None:
        texts = np.array([b"one text", b"and another"], dtype=object)
        await self.infer({"query": texts, "document": texts})

    async def infer(self, inputs: Arrays) -> Arrays:
        assert self._jobs is not None, "load() comes first"
        queries = texts_of(inputs["query"], "query", self._options.max_text_bytes)
        documents = texts_of(inputs["document"], "document", self._options.max_text_bytes)
        pairs = list(zip(queries, documents, strict=True))
        scores, num_tokens = await self._jobs.run(pairs, "document")
        is_one = len(self.metadata.outputs[0].shape) == 1
        return {"score": scores[:, 0] if is_one else scores, "num_tokens": num_tokens}

    async def unload(self) -> None:
        if self._jobs is not None:
            self._jobs.close()
        self._jobs = None


def _read(path: Path, options: RerankerOptions) -> _Model:
    folder = open_folder(path)
    max_tokens = longest_input(options.max_tokens, folder.max_tokens, folder.config)
    check_room(folder.encoder, max_tokens, is_pair=True)
    activation = _activation(folder.config_file, folder.config) if options.activation == AUTO else options.activation
    tokenizer = EncoderTokenizer(
        folder.encoder,
        max_tokens=max_tokens,
        truncates=options.truncate,
        has_token_types=folder.config.has_token_types,
    )
    classifier, num_bytes = folder.load(DTYPES[options.dtype], Classifier)
    return _Model(folder.config, classifier, tokenizer, activation, max_tokens, num_bytes)


def _activation(config_file: JsonObject, config: EncoderConfig) -> str:
    """The one that CrossEncoder would apply. Raises Unsupported for one that is not known."""
    named = config_file.child("sentence_transformers").string(
        "activation_fn", config_file.string("sbert_ce_default_activation_function", "")
    )
    if not named:
        return "sigmoid" if config.num_labels == 1 else "identity"
    name = named.rpartition(".")[2].lower()
    if name not in ACTIVATIONS:
        raise Unsupported(
            f"{config_file.source}: activation {shown(named)} is not supported; known are {', '.join(ACTIVATIONS)}"
        )
    return name


def _metadata(model: _Model, options: RerankerOptions) -> ModelMetadata:
    num_labels = model.config.num_labels
    return ModelMetadata(
        platform=f"torch_{model.config.architecture}",
        backend="reranker",
        inputs=(TensorSpec("query", "BYTES", (-1,)), TensorSpec("document", "BYTES", (-1,))),
        outputs=(
            TensorSpec("score", "FP32", (-1,) if num_labels == 1 else (-1, num_labels)),
            TensorSpec("num_tokens", "INT64", (-1,)),
        ),
        max_batch_size=options.max_batch_size,
        parameters={"activation": model.activation, "max_tokens": str(model.max_tokens)},
    )
