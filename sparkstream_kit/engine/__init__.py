"""The graph of a job, its states and windows, and the engine that runs them batch by batch."""
