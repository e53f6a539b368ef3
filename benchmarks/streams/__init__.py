"""What `fan_out` runs: a control plane in one process, thousands of light clients in another, asked line by line."""
