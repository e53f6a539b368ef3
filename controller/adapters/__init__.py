"""Shell: one module per outside system. An adapter turns what happens outside into events and carries out effects; it
decides nothing.
"""
