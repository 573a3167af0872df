"""What a run leaves behind: its record, its metrics, where it came from; and all runs of a folder as tables."""
