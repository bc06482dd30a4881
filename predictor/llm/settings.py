"""The engine's settings, with their units and defaults. Whoever starts an engine maps its own settings onto these."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import InvalidInput

BACKENDS = ("auto", "torch", "native")
KV_CACHE_DTYPES = ("auto", "bfloat16", "int8")
SPECULATION = ("auto", "off")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Checked when made: a wrong value raises InvalidInput that names the field, the value and the range.

    backend: "torch"; "native", kernels that were compiled beforehand or are on first use; or "auto": native where dtype
        is "auto" as well and compiler, CPU and architecture allow it, else torch.
    dtype: of weights and activations in torch, "auto" takes what the loader finds best. The native backend keeps the
        4-bit and 8-bit weights of a file as they are, and takes no other dtype than "auto".
    kv_cache_dtype: of keys and values; "auto" takes int8 in the native backend and `dtype` in torch, which takes no
        other.
    device: "cpu", "cuda" or "cuda:<index>".
    cache_dir: folder of the artifact cache, in which compiled kernels are kept.
    num_threads: threads that compute; 0 takes every CPU that this process may use.
    max_context_tokens: longest prompt and output together; 0 takes the model's own.
    block_size: tokens in one KV block.
    kv_cache_bytes: memory for the KV cache; 0 takes `kv_cache_share` of what is free, and never more than
        max_num_seqs full contexts can use.
    kv_cache_share: share of free memory, 0 to 1.
    deterministic: try at the start, for about a second, whether this machine's kernels let a request's company show in
        its bits, and compute one token at a time if so. On the CPUs that were tried they do not.
    enable_prefix_caching: find the blocks of a prompt's beginning that another request left behind.
    max_num_seqs: sequences that run at the same time.
    max_num_batched_tokens: tokens that one step computes, over all sequences.
    speculation: "auto": draft the next tokens of outputs that repeat earlier text, and verify the draft in one step;
        the tokens come faster and are the same. Not on CUDA unless `deterministic` is set, for the size of a step shows
        in the results there. "off": never.
    num_draft_tokens: longest draft of one sequence in a step.
    max_num_tokens_with_drafts: tokens, drafts included, that a step with drafts computes over all sequences. Beyond 8 a
        token costs more than it saves with the native kernels.
    max_num_waiting: sequences that wait before the next is refused with Overloaded.
    max_num_waiting_tokens: the same bound, in tokens of their prompts.
    priority_head_start_s: seconds of waiting that outweigh one step of priority, so that nobody waits for ever.
    load_timeout_s: longest silence while the model loads.
    heartbeat_interval_s: how often the engine process is asked whether it lives.
    heartbeat_timeout_s: longest silence before the engine counts as hung; longer than the longest step.
    restart_delay_s: pause before a dead engine is started again; doubles each time, to at most max_restart_delay_s.
    """

    backend: str = "auto"
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    device: str = "cpu"
    cache_dir: str = "~/.cache/meshserve"
    num_threads: int = 0
    max_context_tokens: int = 0
    block_size: int = 16
    kv_cache_bytes: int = 0
    kv_cache_share: float = 0.125
    deterministic: bool = False
    enable_prefix_caching: bool = True
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 512
    speculation: str = "auto"
    num_draft_tokens: int = 7
    max_num_tokens_with_drafts: int = 8
    max_num_waiting: int = 256
    max_num_waiting_tokens: int = 131_072
    priority_head_start_s: float = 30.0
    load_timeout_s: float = 300.0
    heartbeat_interval_s: float = 5.0
    heartbeat_timeout_s: float = 60.0
    restart_delay_s: float = 0.5
    max_restart_delay_s: float = 30.0

    def __post_init__(self) -> None:
        for field, choices in (
            ("backend", BACKENDS),
            ("kv_cache_dtype", KV_CACHE_DTYPES),
            ("speculation", SPECULATION),
        ):
            if getattr(self, field) not in choices:
                raise InvalidInput(
                    f"{field} is {getattr(self, field)!r}; it must be one of {', '.join(choices)}", field=field
                )
        if self.backend == "torch" and self.kv_cache_dtype != "auto":
            raise InvalidInput(
                f"kv_cache_dtype is {self.kv_cache_dtype!r}; the torch backend keeps keys and values in its dtype",
                field="kv_cache_dtype",
            )
        for field, low in _LOWEST.items():
            if not getattr(self, field) >= low:
                raise InvalidInput(f"{field} is {getattr(self, field)}; it must be at least {low}", field=field)
        if not 0.0 < self.kv_cache_share <= 1.0:
            raise InvalidInput(
                f"kv_cache_share is {self.kv_cache_share}; it must be above 0 and at most 1", field="kv_cache_share"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InvalidInput(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}; it must be at least max_num_seqs, "
                f"{self.max_num_seqs}, so that every running sequence gets a token in every step",
                field="max_num_batched_tokens",
            )

    @property
    def max_num_requests(self) -> int:
        """Sequences that an engine holds before the next is refused."""
        return self.max_num_seqs + self.max_num_waiting


_LOWEST: dict[str, float] = {
    "num_threads": 0,
    "max_context_tokens": 0,
    "block_size": 1,
    "kv_cache_bytes": 0,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 1,
    "num_draft_tokens": 0,
    "max_num_tokens_with_drafts": 0,
    "max_num_waiting": 1,
    "max_num_waiting_tokens": 1,
    "priority_head_start_s": 0.0,
    "load_timeout_s": 0.001,
    "heartbeat_interval_s": 0.001,
    "heartbeat_timeout_s": 0.001,
    "restart_delay_s": 0.0,
    "max_restart_delay_s": 0.0,
}
