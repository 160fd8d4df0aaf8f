"""The HTTP API on a Unix socket: routes, views, errors, and the client."""
