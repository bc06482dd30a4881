"""The transformer: what happens to a request before and after the model. It renders prompts; it computes nothing."""
