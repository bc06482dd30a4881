"""Measures MeshServe beside its peers over one API, on one machine, in turn. `make bench-llm`; docs/performance.md."""
