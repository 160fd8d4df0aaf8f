"""What steps as pods cost, as ratios to floors measured in the same run: `just bench-cluster`."""

from __future__ import annotations

import signal
import sys

from tests.bench import cluster_chain, cluster_throughput
from tests.cluster.local import assets, has_control_plane


def main() -> int:
    if not has_control_plane():
        print(f"cannot measure: no Kubernetes control plane in {assets()}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended on the way
    cluster_throughput.main()
    cluster_chain.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
