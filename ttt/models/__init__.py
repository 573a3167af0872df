"""Language models: built, counted, and exchanged with the released code."""
