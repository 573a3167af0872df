"""Tables of all runs for figures and claims: the choice of runs to compare, Table 1, names of methods."""
