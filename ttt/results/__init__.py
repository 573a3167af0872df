"""The files that a run writes: its record, metrics, checkpoints and lock; and all runs of a folder as tables."""
