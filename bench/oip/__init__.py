"""Measures a tensor request through MeshServe beside its peers, in turn. `make bench-oip`; docs/performance.md."""
