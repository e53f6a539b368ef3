"""Pure: the Envoy half of Spillway: intent in, xDS resources out. Knows no Kubernetes, no metrics and no offloading."""
