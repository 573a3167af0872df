"""The files of a run and of a benchmark: record, metrics, checkpoints, provenance."""
