"""Planning a training past this machine: memory, time and cost from counted operations and stated rates."""
