"""The registry: which model, which version, which prompt, and where it runs."""
