"""The names of a run's losses on repeated text in its record, and the rule for runs that copy."""

FIRST_LOSS, REPEATED_LOSS = "copy_first_loss", "copy_repeated_loss"
"""Measurements of a record, nats/token; see ``ttt.evaluate.copying``."""

COPIES_BELOW = 0.5
"""A run copies if its loss on repeated text is below this share of its loss on the same text at first reading.

Half lies between two ways to use the first reading. For 64 pieces of 512 tokens of Python source (vocabulary of 1024),
the frequencies of tokens in the piece alone give 4.1 to 4.6 nats a token, about the loss of the laptop's models on new
text, so that they cannot halve it; the tokens that followed the present one give 0.8 to 0.9, about a fifth. A model
that has not learned to look up the order of earlier tokens stays above half, a model that has falls far below.
"""
