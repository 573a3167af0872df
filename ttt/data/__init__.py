"""Text into tokens, tokens into windows, windows into batches."""
