"""What figures and claims make of all runs: tables, the choice of runs to compare, Table 1, names of methods."""
