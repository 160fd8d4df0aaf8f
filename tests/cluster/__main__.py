"""`python -m tests.cluster up [--node]` prints the kubeconfig; `down [--wipe]` stops it and forgets its state."""

from __future__ import annotations

import shutil
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
        case ["down", *more] if more in ([], ["--wipe"]):
            cluster.stop(everything=True)
            if more:
                shutil.rmtree(cluster.folder / "data/etcd", ignore_errors=True)
                shutil.rmtree(cluster.folder / "data/kubelet", ignore_errors=True)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
