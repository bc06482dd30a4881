"""Model files: how they are read, checked, and turned into float32 tensors by the names that models use."""
