"""Sweeps: plan many runs, submit them to a cluster or this machine, watch, retry and collect them."""
