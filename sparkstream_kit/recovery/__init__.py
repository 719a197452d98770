"""What a job needs to continue after a crash: its home, offset log, lease and snapshots."""
