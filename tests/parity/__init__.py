"""Comparison with numbers that the published code and the reference metric code produced."""
