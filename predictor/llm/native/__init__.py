"""A CPU backend in C++ for the Llama family: the whole forward pass of a step in one call, and its sampling in another.

`targets` names the kinds of CPU, `compiler` finds or builds the kernels for one, `library` speaks to them, `amx` turns
AMX on where it is right, `packing` lays weights out, `sampler` chooses tokens, `backend` is the engine's `Backend`. The
kernels themselves: simd.h, quantize.h, gemm.h, tiles.h, amx.h, pack.h, ops.h, attention.h, kv_bfloat16.h, kv_int8.h,
kv_cache.h, threads.h, model.h, linear.h, forward.cpp, to be read in that order; those of sampling: noise.h,
logit_row.h, truncation.h, adjustments.h, sampling.h.
"""
