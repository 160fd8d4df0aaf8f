"""What every test of the project and its plugins can use."""

pytest_plugins = ["tests.cluster.fixtures"]
