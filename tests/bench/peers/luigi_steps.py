"""Luigi: its own scheduler in the process, one worker, so that a fan runs one task after the other. A task is
recorded by its target, an empty file.
"""

import logging
import subprocess
import sys
import time
from pathlib import Path

import luigi


class Step(luigi.Task):
    folder = luigi.Parameter()
    number = luigi.IntParameter()
    is_chain = luigi.BoolParameter()

    def requires(self) -> list[luigi.Task]:
        is_first = self.number == 0 or not self.is_chain
        return [] if is_first else [Step(self.folder, self.number - 1, self.is_chain)]

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder, str(self.number))))

    def run(self) -> None:
        subprocess.run(["true"], check=True)
        self.output().open("w").close()


def main(shape: str, count: int, folder: str) -> None:
    logging.disable(logging.CRITICAL)
    numbers = [count - 1] if shape == "chain" else range(count)
    steps = [Step(folder, number, shape == "chain") for number in numbers]
    started = time.perf_counter()
    if not luigi.build(steps, local_scheduler=True, workers=1, no_lock=True):
        sys.exit("luigi failed")
    took_s = time.perf_counter() - started
    assert len(list(Path(folder).iterdir())) == count
    print(took_s)


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
