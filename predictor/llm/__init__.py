"""The language-model engine: continuous batching over a paged KV cache. Knows no gRPC."""
