"""Models in other formats: written, run again in the format's own runtime, and compared.

``plan`` and ``messages`` are pure; everything else runs in worker processes only.
"""
