"""The escrow program: C source, linker, the committed build and its interface description."""
