"""The inner loop of TTT-Linear and TTT-MLP in C++, compiled on the machine that runs it."""
