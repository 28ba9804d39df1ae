"""LightningModules: one for each task, with its targets, loss and metrics."""
