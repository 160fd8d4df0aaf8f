"""Dagster: a job executed in the process, one step after the other, with an instance on SQLite. A step is recorded
by its events.
"""

import logging
import os
import subprocess
import sys
import time


def main(shape: str, count: int, folder: str) -> None:
    os.environ |= {"DAGSTER_HOME": folder, "DAGSTER_DISABLE_TELEMETRY": "1"}
    import dagster

    logging.disable(logging.CRITICAL)

    @dagster.op(ins={"before": dagster.In(dagster.Nothing)}, out=dagster.Out(dagster.Nothing))
    def step() -> None:
        subprocess.run(["true"], check=True)

    @dagster.job
    def chain() -> None:
        before = step.alias("s0")()
        for number in range(1, count):
            before = step.alias(f"s{number}")(before)

    @dagster.job
    def fan() -> None:
        for number in range(count):
            step.alias(f"s{number}")()

    job = chain if shape == "chain" else fan
    with dagster.DagsterInstance.get() as instance:
        started = time.perf_counter()
        result = job.execute_in_process(instance=instance)
        took_s = time.perf_counter() - started
        if not result.success:
            sys.exit("dagster failed")
        kinds = {dagster.DagsterEventType.STEP_SUCCESS}
        found = instance.get_records_for_run(result.run_id, of_type=kinds, limit=count + 1).records
        assert len(found) == count
    print(took_s)


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
