"""The pure heart: `advance(run, event)`; no async, no I/O, no clock."""
