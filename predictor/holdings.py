"""What a predictor's models hold beyond the calls that it answers, for its load report.

Read where it is kept, as metrics are: the engines' looks at themselves, and the queues in front of the other models.
"""

from __future__ import annotations

from mesh.load_meter import Holdings
from predictor.repository import ModelRepository
from predictor.runtimes.language_model import LanguageModelRuntime


def holdings_of(repository: ModelRepository) -> Holdings:
    """Of all models in memory together: queues add up, and the fullest KV cache counts.

    A sequence of a language model counts as a request. Places are the engines' where there are any: what else the
    predictor computes takes little beside them.
    """
    queued, queued_tokens, kv_usage, num_places = repository.num_waiting, 0, 0.0, 0
    for model in repository.loaded():
        queued += model.batcher.num_waiting
        if isinstance(model.runtime, LanguageModelRuntime):
            stats = model.runtime.stats()
            queued += stats.num_waiting
            queued_tokens += stats.num_waiting_tokens
            kv_usage = max(kv_usage, stats.kv_cache_usage)
            num_places += stats.max_num_seqs
    return Holdings(queued=queued, queued_tokens=queued_tokens, kv_usage=kv_usage, num_places=num_places)
