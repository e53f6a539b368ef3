"""What the benchmark of the data path stands on: a load generator with its backend, and the gateways it loads."""
