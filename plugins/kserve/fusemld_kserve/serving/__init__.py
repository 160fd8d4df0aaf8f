"""What runs in the environment of a served model; standalone, the daemon never imports it."""
