"""The vocabulary of a run, without torch and without Hydra."""
