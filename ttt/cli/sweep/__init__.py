"""``ttt-sweep``: the command line (`request.py`), the commands, their tables, and the expansion of a sweep."""
