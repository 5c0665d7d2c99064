"""The ports: what Cloche needs from the world, as protocols that adapters fulfil.

Only `adapters/` and `wiring.py` modules touch clocks, randomness, files, threads, processes or
sockets. Everything else asks one of these, so that whole histories can be replayed from a seed.
"""
