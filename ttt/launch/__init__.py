"""Sweeps: many runs planned together, submitted to a cluster or to this machine, watched, retried and collected."""
