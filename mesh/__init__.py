"""The contract of the mesh (generated stubs) and the plumbing that speaks it."""
