"""fusemld plugin: the kserve-predictor step and its embedded inference server."""
