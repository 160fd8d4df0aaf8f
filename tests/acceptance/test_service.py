"""What the README says about the service, on a machine of its own with a real systemd: `just test-service`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.acceptance.machine import Machine
from tests.acceptance.test_readme import AS_A_SERVICE, typed

REQUIRED = "FUSEMLD_TEST_SERVICE_REQUIRED"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get(REQUIRED), reason="`just test-service` boots a machine for it"),
]

BIN = "/opt/fusemld/bin"
IN_TIME = "timeout 60 sh -c"
WORKFLOW = """\
name: service
steps:
  - {name: where, image: host, needs: [], command: [sh, -c, cat /proc/self/cgroup; id -un]}
  - {name: long, image: host, needs: [], command: [sh, -c, sleep 25; echo done]}
  - {name: forks, image: host, needs: [], command: [sh, -c, for i in $(seq 30); do sleep 20 & done]}
"""
DAEMON = "systemctl show -p MainPID --value fusemld"
AS_ALICE = "runuser -u alice -- sh -c"
IMPATIENT = (
    "install -d /run/systemd/system/fusemld.service.d && "
    "printf '[Service]\\nWatchdogSec=10\\n' > /run/systemd/system/fusemld.service.d/impatient.conf && "
    "systemctl daemon-reload && systemctl restart fusemld"
)
FOREIGN = "find /var/lib/fusemld ! -user fusemld"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.build()
    return made


def test_the_service_of_the_readme(machine: Machine) -> None:
    *installing, ending = typed(AS_A_SERVICE)
    commands = [
        *installing,
        "useradd --groups fusemld alice",
        "printf '[process]\\nstep_processes = 20\\n' >> /etc/fusemld/config.toml && systemctl restart fusemld",
        f"{AS_ALICE} 'cat > /srv/fusemld/inbox/service.yaml' << 'END'\n{WORKFLOW}END",
        f"{IN_TIME} 'until {BIN}/fuseml get latest | grep -q long.*running; do sleep 1; done'",
        "systemctl restart fusemld",
        f"{BIN}/fuseml get latest -o json",
        f"{IN_TIME} 'while {BIN}/fuseml runs | grep -q running; do sleep 1; done'",
        f"{BIN}/fuseml logs latest",
        f"{AS_ALICE} '{BIN}/fuseml get latest'",
        f"{BIN}/fuseml backup /root/copy.db",
        f"kill -KILL $({DAEMON})",
        f"{IN_TIME} 'until systemctl is-active fusemld; do sleep 1; done'",
        IMPATIENT,
        f"kill -STOP $({DAEMON})",
        f"{IN_TIME} 'until [ $(systemctl show -p NRestarts --value fusemld) = 1 ]; do sleep 1; done'",
        f"{IN_TIME} 'until systemctl is-active fusemld; do sleep 1; done'",
        ending,
        "! pgrep -u fusemld",
        f"sudo {BIN}/fusemld stop --all",
        FOREIGN,
        f"{BIN}/fusemld restore /root/copy.db",
        FOREIGN,
        f"! {BIN}/fusemld run",
        FOREIGN,
        "systemctl start fusemld",
        f"{BIN}/fuseml runs",
        f"runuser -u fusemld -- {BIN}/fusemld stop --all --state /nowhere/state",
    ]

    answers = list(zip(commands, machine.type_all(commands, 1500), strict=True))

    for each, (status, words) in answers:
        assert status == 0, f"{each}: {status}\n{words}"
        assert each != FOREIGN or not words.strip(), words
    found = dict(answers)
    assert "held by control groups in /sys/fs/cgroup/system.slice/fusemld.service" in found[installing[-1]][1]
    logs, run = found[f"{BIN}/fuseml logs latest"][1], found[f"{AS_ALICE} '{BIN}/fuseml get latest'"][1]
    assert "where | 0::/system.slice/fusemld.service/fusemld-" in logs
    assert "where | fusemld\n" in logs
    assert "long  | done\n" in logs
    assert "it has reached the limit of 20 processes and threads at the same time" in logs
    assert "user:     alice\n" in run
    assert '"number":2' not in found[f"{BIN}/fuseml get latest -o json"][1].replace(" ", "")
    assert "it belongs to the user fusemld; start the daemon as fusemld" in found[f"! {BIN}/fusemld run"][1]
    assert "none has used /nowhere/state yet" in found[commands[-1]][1]
