"""Models that answer: one module a runtime. Only worker processes load the numeric ones."""
