"""Shell: a Kubernetes API server, by raw requests. What comes from it goes into the engine as events; what is written
to it is written with a field manager of our own, and never a whole object that somebody else may have changed.
"""
