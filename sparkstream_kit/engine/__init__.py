"""From ticks to batches: the graph of a job, its states and windows, and what runs them."""
