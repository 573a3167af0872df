"""The commands, and all code that uses Hydra."""
