"""Configuration, lifecycle and the supervisor: the only place where the parts meet."""
