"""What every test of the project and its plugins can use."""

import signal

from hypothesis import settings

pytest_plugins = ["tests.cluster.fixtures"]

# The same examples every time: what a commit is judged by is no luck. How long one takes says nothing on a machine
# that does other things, too. `--hypothesis-profile search` looks elsewhere each time, and for longer.
settings.register_profile("fusemld", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=5000)
settings.load_profile("fusemld")

# Whoever ends a test run with SIGTERM, as `timeout` does, leaves no more behind than with Ctrl-C: no daemon, no
# cluster.
signal.signal(signal.SIGTERM, signal.default_int_handler)
