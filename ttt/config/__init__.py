"""Configuration of every command, without torch and without Hydra."""
