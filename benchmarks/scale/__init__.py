"""What the benchmarks of the control plane share: many models, the real controller driven from outside, gateways that
follow it, and what their processes take.
"""
