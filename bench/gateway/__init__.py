"""What the gateway adds to a call and to a token, beside a bare byte proxy: `python -m bench.gateway`."""
