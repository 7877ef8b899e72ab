"""From Python source with a torch module to a graph. Runs a stranger's code: in a sandboxed worker only.

``messages`` is pure; everything else belongs to the worker.
"""
