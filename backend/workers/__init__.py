"""Worker processes: their sandbox, their entry point and the supervisor that keeps them in check.

The supervisor side imports no numeric runtime; only ``main`` does, inside the worker.
"""
