"""``ttt-sweep``: its command line (`request.py`), its commands, its tables, and a sweep's expansion into runs."""
