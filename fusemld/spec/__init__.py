"""From text to documents, or all their problems; expressions; no I/O."""
