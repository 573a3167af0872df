"""The mathematics of one TTT layer: pure functions on tensors."""
