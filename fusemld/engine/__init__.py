"""The pure heart: `new_run`, `advance`, `resume` and admission; no async, no I/O, no clock."""
