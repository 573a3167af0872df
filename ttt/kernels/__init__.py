"""Fast forms of the inner loop, and the choice among all forms."""
