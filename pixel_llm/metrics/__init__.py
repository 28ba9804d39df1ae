"""Metrics of words and places, as torchmetrics classes and the functions that they sum up."""
