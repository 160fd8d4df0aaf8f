"""Prefect: a flow in the process, its temporary server with SQLite. A step is recorded when the server has its
final state, which it takes from events some time after the step."""

import asyncio
import os
import subprocess
import sys
import time


def main(shape: str, count: int, folder: str) -> None:
    os.environ |= {
        "PREFECT_HOME": folder,
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
    }
    from prefect import flow, get_client, task
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter

    @task
    def step(_before: object = None) -> None:
        subprocess.run(["true"], check=True)

    @flow(name="steps")
    def chain() -> None:
        before = None
        for _ in range(count):
            before = step(before)

    @flow(name="steps")
    def fan() -> None:
        for started in [step.submit() for _ in range(count)]:
            started.result()

    async def recorded() -> None:
        async with get_client() as client:
            while True:
                found = 0
                for offset in range(0, count, 200):
                    runs = await client.read_task_runs(
                        flow_run_filter=FlowRunFilter(), task_run_filter=TaskRunFilter(), limit=200, offset=offset
                    )
                    found += sum(run.state is not None and run.state.is_completed() for run in runs)
                if found >= count:
                    return
                await asyncio.sleep(0.02)

    async def awake() -> None:
        """The server starts with the first who asks it: not what is measured."""
        async with get_client() as client:
            await client.hello()

    asyncio.run(awake())
    started = time.perf_counter()
    (chain if shape == "chain" else fan)()
    asyncio.run(recorded())
    print(time.perf_counter() - started)


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
