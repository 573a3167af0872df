"""Reproduction suite for "Learning to (Learn at Test Time)" (arXiv 2407.04620)."""
