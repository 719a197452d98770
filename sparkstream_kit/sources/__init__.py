"""Where lines come from: one file per system."""
