"""``ttt-bench``: time and memory of the inner loop and of whole models, one kernel against another."""
