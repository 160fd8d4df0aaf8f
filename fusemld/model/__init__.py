"""What the system talks about: workflows, runs, extensions, codesets, applications and errors; no I/O."""
