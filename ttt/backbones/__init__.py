"""Backbones: the blocks around a sequence layer."""
