"""How a sequence layer sits in a block."""
