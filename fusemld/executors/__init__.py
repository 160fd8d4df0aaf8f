"""Where attempts of steps run."""
