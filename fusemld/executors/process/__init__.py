"""Steps as process groups of this host, started and kept by a keeper that outlives the daemon."""
