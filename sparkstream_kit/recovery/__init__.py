"""What a job must remember to go on after a crash: its home, offset log, lease and saved state."""
