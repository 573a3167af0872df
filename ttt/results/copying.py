"""The names of a run's losses on repeated text in its record, and the rule for runs that copy."""

FIRST_LOSS, REPEATED_LOSS = "copy_first_loss", "copy_repeated_loss"
"""Measurements of a record, nats/token; see ``ttt.evaluate.copying``."""

COPIES_BELOW = 0.9
"""A run copies if its loss on repeated text is below this share of its loss on the same text at first reading.

The share leaves no doubt on either side of the step in the loss. On Python source (vocabulary of 1024), models of width
64 after 1.2M tokens, at 4.3 to 4.8 nats a token, had a share of 0.99 (Transformer) to 1.00 (TTT-Linear (M), Mamba);
after the step, at width 128 and 3.3M tokens, TTT-Linear (M) had 0.87 at 2.95 nats and Transformer (M) 0.54 at 2.36.
To know only which tokens the window has, and not their order, does not help: their frequencies in pieces of 512 tokens
give 4.1 nats or more; the tokens that have followed the present one give 0.8.
"""
