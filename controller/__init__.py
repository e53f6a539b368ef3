"""Pure: the deciding half of Spillway: which share of a model's traffic leaves, and why.

`__version__` is the only place the version stands in.
"""

__version__ = "0.1.0"
