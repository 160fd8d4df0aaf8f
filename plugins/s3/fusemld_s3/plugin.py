"""What the plugin brings, as hook implementations."""
