"""The Extension Registry: pure matching, resolution, and explanations."""
