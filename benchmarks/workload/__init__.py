"""A load as real as one machine can have it: simulated model servers, and callers that play a trace against gateways.

Both are hand-written HTTP/1.1 on bare asyncio, in a process each, since two cores have to carry them beside an Envoy
and a controller. What they cost, and how late they were, is a part of every result.
"""
