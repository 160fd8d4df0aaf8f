"""The whole chain on this machine, through the watched folder and the socket only, as a user would.

Starts a daemon on a state folder of its own (`.demo`), drops a workflow, a codeset and a run request, shows the
progress, sends a real request to the model that the run has served, and leaves nothing running (`--keep`:
leaves everything running and says what to type next).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent
CODESET = EXAMPLES / "codesets" / "sklearn-iris"
SOCKET_PATH_LIMIT = 100
START_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument("--folder", type=Path, default=EXAMPLES.parent / ".demo", help="where everything is kept")
    arguments = parser.parse_args()
    demo = Demo(arguments.folder.absolute())
    is_kept = False
    try:
        demo.start()
        is_right = demo.show()
        is_kept = arguments.keep and is_right
    except (KeyboardInterrupt, subprocess.CalledProcessError, OSError) as error:
        print(f"demo: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    finally:
        if is_kept:
            demo.explain()
        else:
            demo.stop()
    return 0 if is_right else 1


class Demo:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.codesets = folder / "codesets"
        self.state = folder / "state"
        self.socket = self._socket()
        own = {name: text for name, text in os.environ.items() if not name.startswith("FUSEMLD_")}
        self.environment = own | {
            "FUSEMLD_FOLDER": str(self.inbox),
            "FUSEMLD_STATE": str(self.state),
            "FUSEMLD_SOCKET": str(self.socket),
            "FUSEMLD_CODESETS_ROOTS": str(self.codesets),
        }

    def _socket(self) -> Path:
        """Below the folder, unless that is too deep for the address of a Unix socket."""
        inside = self.folder / "run" / "fusemld.sock"
        if len(str(inside)) <= SOCKET_PATH_LIMIT:
            return inside
        return Path(tempfile.gettempdir(), f"fusemld-demo-{os.getuid()}", "fusemld.sock")

    def start(self) -> None:
        self.inbox.mkdir(parents=True, exist_ok=True)
        self.codesets.mkdir(exist_ok=True)
        if self.answers():
            say("the daemon of an earlier demo is still running: going on with it")
            return
        log = (self.folder / "daemon.log").open("ab")
        say(f"starting the daemon (state and log below {self.folder})")
        daemon = subprocess.Popen(  # it outlives this program with --keep
            [tool("fusemld"), "run"], env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + START_S
        while not self.answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                print((self.folder / "daemon.log").read_text()[-2000:], file=sys.stderr)
                raise OSError("the daemon did not start")
            time.sleep(0.1)

    def answers(self) -> bool:
        return self.fuseml("runs", check=False, quiet=True).returncode == 0

    def show(self) -> bool:
        say("dropping a codeset, a workflow and a run request into the watched folder")
        shutil.copytree(CODESET, self.codesets / "iris", dirs_exist_ok=True)
        drop(self.inbox / "codeset.yaml", (EXAMPLES / "documents" / "iris-codeset.yaml").read_text())
        drop(self.inbox / "mlflow-e2e.yaml", (EXAMPLES / "workflows" / "mlflow-e2e.yaml").read_text())
        number = 1 + len(list(self.inbox.glob("run-*.yaml")))
        request = self.inbox / f"run-{number:03}.yaml"
        drop(request, (EXAMPLES / "documents" / "iris-run.yaml").read_text())
        run = self.run_of(request)
        say(f"watching the run: fuseml watch {run}")
        self.fuseml("watch", run, check=False)
        view = self.json("get", run)
        if view["state"] != "succeeded":
            self.fuseml("why", run, check=False)
            return False
        say(f"what the builder did: fuseml logs {run} builder")
        print("\n".join(f"  {line}" for line in self.log(run, "builder") if "environment" in line))
        url = view["outputs"]["prediction-url"]
        say("the run's outputs")
        for name, value in view["outputs"].items():
            print(f"  {name}: {value}")
        return predict(url)

    def run_of(self, request: Path) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for file in self.json("files"):
                if file["path"] == request.name and file["run"]:
                    return str(file["run"])
                if file["path"] == request.name and file["state"] == "rejected":
                    raise OSError(f"{request.name} was rejected: {file['detail']}")
            time.sleep(0.1)
        raise OSError(f"no run was started for {request.name}: see {self.folder / 'daemon.log'}")

    def json(self, *arguments: str) -> Any:
        return json.loads(self.fuseml(*arguments, "-o", "json", quiet=True).stdout)

    def log(self, run: str, step: str) -> list[str]:
        return self.fuseml("logs", run, step, quiet=True).stdout.decode().splitlines()

    def fuseml(
        self, *arguments: str, check: bool = True, quiet: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [tool("fuseml"), *arguments], env=self.environment, check=check, capture_output=quiet
        )

    def explain(self) -> None:
        services = {service["name"]: service for service in self.json("services")}
        say("everything is left running; next you may want")
        print(f"  export FUSEMLD_STATE={self.state} FUSEMLD_SOCKET={self.socket}")
        print(f"  export PATH={Path(sys.executable).parent}:$PATH")
        print(f"  the MLflow UI:        {services['mlflow']['url']}")
        print("  what runs:            fuseml services; fuseml application list")
        print("  another training:     fuseml run mlflow-e2e -i mlflow-codeset=demo/iris --wait")
        print(f"  your own documents:   drop them into {self.inbox}")
        print("  an end of it all:     fusemld stop --all")

    def stop(self) -> None:
        say("stopping everything")
        subprocess.run([tool("fusemld"), "stop", "--all"], env=self.environment, check=False)


def predict(url: str) -> bool:
    """Ask the served model about flowers that it has not seen in training."""
    sample: dict[str, list[int]] = json.loads((CODESET / "sample.json").read_text())
    body = json.dumps({"inputs": sample["inputs"]}).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    say(f"POST {url}")
    with urllib.request.urlopen(request, timeout=30) as response:
        predicted: list[int] = [round(value) for value in json.load(response)["outputs"][0]["data"]]
    print(f"  predicted: {predicted}")
    print(f"  truth:     {sample['truth']}")
    right = sum(a == b for a, b in zip(predicted, sample["truth"], strict=True))
    print(f"  {right} of {len(predicted)} right")
    return right >= len(predicted) - 1


def drop(file: Path, text: str) -> None:
    """As an editor does: written beside, then renamed into place."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text)
    temporary.replace(file)


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
