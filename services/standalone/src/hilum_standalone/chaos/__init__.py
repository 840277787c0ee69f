"""A whole cluster under fire: real servers, real processes, senders at full rate, and a killer with a seed.

`python -m hilum_standalone.chaos` runs it (make chaos); tests/chaos runs a short one.
"""
