"""The names of a run's losses on repeated text in its record, and the rule for runs that copy."""

FIRST_LOSS, REPEATED_LOSS = "copy_first_loss", "copy_repeated_loss"
"""Measurements of a record, nats/token; see ``ttt.evaluate.copying``."""

COPIES_BELOW = 0.95
"""A run copies if its loss on repeated text is below this share of its loss on the same text at first reading.

Shares fall into two groups, and this one lies in the gap between them. On Python source (vocabulary of 1024), models
that have not passed the step in their loss have 0.99 to 1.01: width 64 after 1.2M tokens (Transformer, TTT-Linear (M),
Mamba), and rows 4 to 7 of Table 1 at width 128 after 4.2M. After the step, at width 128, TTT-Linear (M) (row 8) had
0.877 and 0.900 in its two seeds after 4.2M tokens and 0.87 after 3.3M, Transformer (M) 0.54 after 3.3M.
To know only which tokens the window has, and not their order, does not help: their frequencies in pieces of 512 tokens
give 4.1 nats or more; the tokens that have followed the present one give 0.8.
"""
