"""Models of other programs, as graphs with weights: read, written as .cyxmodel, and compared.

``messages`` is pure; everything else runs in worker processes only.
"""
