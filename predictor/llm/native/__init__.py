"""A CPU backend in C++ for the Llama family: the whole forward pass of a step in one call.

`compiler` builds the kernels on first use, `library` speaks to them, `packing` lays weights out for them, `backend`
is the engine's `Backend`. The kernels themselves: simd.h, quantize.h, gemm.h, pack.h, ops.h, attention.h, threads.h,
model.h, linear.h, forward.cpp, to be read in that order.
"""
