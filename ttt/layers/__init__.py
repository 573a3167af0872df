"""Sequence layers, [B, T, C] -> [B, T, C], one file a type."""
