"""Sequence layers, [B, T, C] -> [B, T, C], one file per type. ``state.py`` has their contract, ``SequenceLayer``."""
