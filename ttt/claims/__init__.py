"""The paper's claims that small runs can test, each as paired differences with a verdict by a rule stated beforehand."""
