"""Models that are a Python class: the class runs in processes of its own, and arrays travel over a socket."""
