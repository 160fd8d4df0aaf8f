"""`python -m tests.cluster up [--node]` prints the kubeconfig; `down` stops it, and the next one begins anew."""

from __future__ import annotations

import sys

from tests.cluster.local import LocalCluster


def main(arguments: list[str]) -> int:
    cluster = LocalCluster()
    match arguments:
        case ["up", *more] if more in ([], ["--node"]):
            cluster.start()
            if more:
                cluster.start_node()
            print(cluster.kubeconfig)
        case ["down"]:
            cluster.stop(everything=True)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
