"""The paper's claims that small runs can test: paired differences, and a verdict by a rule stated beforehand."""
