"""A SLURM cluster of virtual nodes on one machine; ``slurm/one_machine.py`` is its command line."""
