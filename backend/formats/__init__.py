"""Model files: one module a format. Reading checks everything; nothing here executes what it reads."""
