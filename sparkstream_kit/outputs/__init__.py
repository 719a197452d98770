"""Where results go: one module for each system, each a function of a stream."""
