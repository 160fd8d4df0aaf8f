"""Pinning codesets and giving attempts their private copies."""
