"""The Python interface: the names that ``import ttt`` offers. The commands do not use this package."""
