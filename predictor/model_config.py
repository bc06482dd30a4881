"""A model's metadata, configuration and statistics as OIP messages. Pure translation; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.oip import open_inference_pb2 as oip
from predictor.loader import LoadedModel
from predictor.runtimes.base import ModelMetadata, TensorSpec
from predictor.statistics import AnswerDurations, Duration, PhaseDurations

# Triton's names for datatypes in a configuration; only BYTES is called otherwise.
_CONFIG_NAMES = {"BYTES": "TYPE_STRING"}


def metadata_message(name: str, metadata: ModelMetadata, versions: Iterable[str]) -> oip.ModelMetadataResponse:
    """Inputs and outputs with their whole shapes, the batch dimension included. versions: all that can be asked for."""
    tensor = oip.ModelMetadataResponse.TensorMetadata
    return oip.ModelMetadataResponse(
        name=name,
        versions=versions,
        platform=metadata.platform,
        inputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in metadata.inputs],
        outputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in metadata.outputs],
    )


def config_message(model: LoadedModel) -> oip.ModelConfig:
    """Triton's configuration: dimensions without the batch where the model has one."""
    metadata = model.metadata
    batching = None
    if model.batcher.is_joining:
        batching = oip.ModelDynamicBatching(max_queue_delay_microseconds=model.batching.batching_delay_us)
    return oip.ModelConfig(
        name=model.spec.name,
        platform=metadata.platform,
        backend=metadata.backend,
        max_batch_size=metadata.max_batch_size,
        input=[
            oip.ModelInput(
                name=spec.name,
                data_type=_config_datatype(spec),
                dims=_dims(metadata, spec),
                optional=spec.optional,
            )
            for spec in metadata.inputs
        ],
        output=[
            oip.ModelOutput(name=spec.name, data_type=_config_datatype(spec), dims=_dims(metadata, spec))
            for spec in metadata.outputs
        ],
        parameters={name: oip.ModelParameter(string_value=text) for name, text in metadata.parameters.items()},
        dynamic_batching=batching,
        model_transaction_policy=oip.ModelTransactionPolicy(decoupled=metadata.is_decoupled),
    )


def statistics_message(model: LoadedModel) -> oip.ModelStatistics:
    """Counters since the model was loaded. There is no response cache in front of the model."""
    statistics = model.statistics
    phases = statistics.phases
    return oip.ModelStatistics(
        name=model.spec.name,
        version=model.spec.version,
        last_inference=statistics.last_inference_ms,
        inference_count=statistics.inference_count,
        execution_count=statistics.execution_count,
        inference_stats=oip.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(statistics.fail),
            queue=_duration(statistics.queue),
            compute_input=_duration(phases.compute_input),
            compute_infer=_duration(phases.compute_infer),
            compute_output=_duration(phases.compute_output),
        ),
        batch_stats=[_batch(size, phases) for size, phases in sorted(statistics.by_batch_size.items())],
        memory_usage=[oip.MemoryUsage(type="CPU", byte_size=model.runtime.memory_bytes)],
        response_stats={str(number): _answer(durations) for number, durations in statistics.by_answer.items()},
    )


def _batch(size: int, phases: PhaseDurations) -> oip.InferBatchStatistics:
    return oip.InferBatchStatistics(
        batch_size=size,
        compute_input=_duration(phases.compute_input),
        compute_infer=_duration(phases.compute_infer),
        compute_output=_duration(phases.compute_output),
    )


def _answer(durations: AnswerDurations) -> oip.InferResponseStatistics:
    return oip.InferResponseStatistics(
        compute_infer=_duration(durations.compute_infer),
        compute_output=_duration(durations.compute_output),
        success=_duration(durations.success),
        fail=_duration(durations.fail),
        cancel=_duration(durations.cancel),
    )


def _duration(duration: Duration) -> oip.StatisticDuration:
    return oip.StatisticDuration(count=duration.count, ns=duration.ns)


def _config_datatype(spec: TensorSpec) -> oip.DataType.ValueType:
    return oip.DataType.Value(_CONFIG_NAMES.get(spec.datatype, f"TYPE_{spec.datatype}"))


def _dims(metadata: ModelMetadata, spec: TensorSpec) -> tuple[int, ...]:
    return spec.shape[1:] if metadata.max_batch_size > 0 else spec.shape
