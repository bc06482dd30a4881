"""Embeddings of texts by encoders of the BERT family, from a folder as sentence-transformers or transformers saves it.

A model is a folder with `config.json`, `tokenizer.json`, `model.safetensors` (whole or sharded) and, if wanted,
sentence-transformers' `modules.json` and what it names. One row of the input is one text, so requests may be joined.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from predictor.encoder.batches import Batch
from predictor.encoder.folder import DTYPES, longest_input, open_folder
from predictor.encoder.model import Encoder
from predictor.encoder.pooling import POOLINGS, normalized, pooled
from predictor.encoder.sentence_files import read_sentence_files
from predictor.encoder.tokenizer import EncoderTokenizer, check_room
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.runtimes.encoding import EncodingJobs, EncodingOptions, check_choice, texts_of
from predictor.runtimes.options import read_options

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class EmbeddingOptions(EncodingOptions):
    """pooling: auto (as the model's files say, else mean), mean, cls or max. normalize: auto, true or false."""

    pooling: str = AUTO
    normalize: str = AUTO

    def __post_init__(self) -> None:
        # The plain super() does not know the class that slots=True makes.
        EncodingOptions.__post_init__(self)
        check_choice("pooling", self.pooling, (AUTO, *POOLINGS))
        check_choice("normalize", self.normalize, (AUTO, "true", "false"))


@dataclass(frozen=True, slots=True)
class _Model:
    """A loaded model: `compute` gives float32 [texts, dimension]."""

    encoder: Encoder
    tokenizer: EncoderTokenizer
    pooling: str
    is_normalized: bool
    max_tokens: int
    num_bytes: int

    def compute(self, batch: Batch) -> torch.Tensor:
        vectors = pooled(self.encoder(batch), batch, self.pooling)
        return normalized(vectors) if self.is_normalized else vectors


class EmbeddingRuntime:
    """Input `text`, BYTES [n]; outputs `embedding`, FP32 [n, dimension], and `num_tokens`, INT64 [n]."""

    def __init__(self) -> None:
        self._jobs: EncodingJobs | None = None
        self._metadata: ModelMetadata | None = None
        self._options = EmbeddingOptions()
        self._memory_bytes = 0

    @property
    def metadata(self) -> ModelMetadata:
        assert self._metadata is not None, "load() comes first"
        return self._metadata

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        options = self._options = read_options(artifact.options, EmbeddingOptions)
        progress("load", 0, 1)
        model = await asyncio.to_thread(_read, artifact.path, options)
        config = model.encoder.config
        self._memory_bytes = model.num_bytes + options.activation_bytes(config.hidden_size, config.intermediate_size)
        self._metadata = _metadata(model, options)
        self._jobs = EncodingJobs(artifact.name, options, model.tokenizer, model.compute, width=config.hidden_size)
        progress("load", 1, 1)

    async def warm(self) -> None:
        await self.infer({"text": np.array([b"one text", b"and another"], dtype=object)})

    async def infer(self, inputs: Arrays) -> Arrays:
        assert self._jobs is not None, "load() comes first"
        texts = texts_of(inputs["text"], "text", self._options.max_text_bytes)
        vectors, num_tokens = await self._jobs.run(texts, "text")
        return {"embedding": vectors, "num_tokens": num_tokens}

    async def unload(self) -> None:
        if self._jobs is not None:
            self._jobs.close()
        self._jobs = None


def _read(path: Path, options: EmbeddingOptions) -> _Model:
    folder = open_folder(path)
    files = read_sentence_files(path, folder.config.hidden_size)
    declared = folder.max_tokens if files.max_tokens is None else files.max_tokens
    max_tokens = longest_input(options.max_tokens, declared, folder.config)
    check_room(folder.encoder, max_tokens, is_pair=False)
    tokenizer = EncoderTokenizer(
        folder.encoder,
        max_tokens=max_tokens,
        truncates=options.truncate,
        has_token_types=folder.config.has_token_types,
        lower_case=files.lower_case,
    )
    encoder, num_bytes = folder.load(DTYPES[options.dtype], lambda encoder, _: encoder)
    return _Model(
        encoder=encoder,
        tokenizer=tokenizer,
        pooling=files.pooling if options.pooling == AUTO else options.pooling,
        is_normalized=files.is_normalized if options.normalize == AUTO else options.normalize == "true",
        max_tokens=max_tokens,
        num_bytes=num_bytes,
    )


def _metadata(model: _Model, options: EmbeddingOptions) -> ModelMetadata:
    config = model.encoder.config
    return ModelMetadata(
        platform=f"torch_{config.architecture}",
        backend="embedding",
        inputs=(TensorSpec("text", "BYTES", (-1,)),),
        outputs=(
            TensorSpec("embedding", "FP32", (-1, config.hidden_size)),
            TensorSpec("num_tokens", "INT64", (-1,)),
        ),
        max_batch_size=options.max_batch_size,
        parameters={
            "pooling": model.pooling,
            "normalize": str(model.is_normalized).lower(),
            "max_tokens": str(model.max_tokens),
        },
    )
