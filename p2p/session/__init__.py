"""The Engine's side of a job: what it knows, what it does next, and how it survives a restart.

Knows no numeric runtime and no graph: what a graph costs and whether a model is what was paid for
is asked of ``checks``, which the program injects.
"""
