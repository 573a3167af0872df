"""The names of a run's losses on repeated text in its record, and the rule for runs that copy."""

FIRST_LOSS, REPEATED_LOSS = "copy_first_loss", "copy_repeated_loss"
"""Measurements of a record, nats/token; see ``ttt.evaluate.copying``."""

COPIES_BELOW = 0.5
"""A run copies if its loss on repeated text is below this share of its loss on the same text read for the first time.

Placeholder.
"""
