"""``ttt-bench``: time and memory of the inner loop and of whole models, form against form."""
