"""Functions of a batch: what a job computes, one file per family."""
