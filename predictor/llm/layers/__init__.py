"""The parts that models are made of: plain callables over tensors, with no state but their weights."""
