"""Examples that run: each is a script and importable."""
