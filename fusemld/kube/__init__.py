"""Talking to Kubernetes API servers: access, pace, watches that never end silently."""
