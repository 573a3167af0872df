"""Data: text to tokens, tokens to windows, windows to batches."""
