"""What the campaign lets run: small workflows whose proper end is known from the number that a run is given."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fusemld.executors.process.spawning import MARKER
from fusemld.model.run import Ending, RunState, StepState

STEERING_PLUGIN = '''\
"""A plugin step that writes down when it begins and ends."""

import anyio

from fusemld.hooks.specs import hookimpl
from fusemld.hooks.steps import StepInputs


class Steering:
    repositories = ("example.org/steering",)
    inputs = StepInputs(required=frozenset({"ledger"}), open=True)

    async def run(self, context):
        with open(context.inputs["ledger"], "a") as ledger:
            ledger.write(f"began {context.key}\\n")
        await anyio.sleep(0.05)
        return {name: f"{name} by {context.key.step}" for name in context.outputs}


@hookimpl
def fusemld_plugin_steps():
    return [Steering()]
'''


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ends. Attempts before the last one are lost or, where `may_fail`, failed."""

    state: StepState
    ending: Ending | None
    may_fail: bool = False
    is_resumed: bool = False
    """A plugin step: started again at the same attempt, which is promised to be safe."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow with its share of the runs (`weight`) and the end of each of its runs."""

    name: str
    weight: int
    text: str
    state: RunState
    steps: Mapping[str, Expected]
    outputs: Callable[[int], Mapping[str, str]] = lambda _number: {}
    wants_cancel: bool = False


_DONE = Expected(state=StepState.SUCCEEDED, ending=Ending.SUCCEEDED)
_RETRIED = Expected(state=StepState.SUCCEEDED, ending=Ending.SUCCEEDED, may_fail=True)
_STEERED = Expected(state=StepState.SUCCEEDED, ending=Ending.SUCCEEDED, is_resumed=True)
_BROKEN = Expected(state=StepState.FAILED, ending=Ending.PROGRAM_FAILED, may_fail=True)
_LATE = Expected(state=StepState.FAILED, ending=Ending.TIMED_OUT)
_SKIPPED = Expected(state=StepState.SKIPPED, ending=None)
_CANCELLED = Expected(state=StepState.CANCELLED, ending=Ending.CANCELLED)

FAN = 4
NO_ROOM = 5
"""With this status ends a step that cannot write its result: the disk is full, and its script says so."""


def kinds(ledger: Path, codeset: str) -> tuple[Kind, ...]:
    """Every step of the host appends `began RUN/STEP/ATTEMPT` and, where it comes that far, `ended ...` to the
    ledger, each with one write. `codeset` names one that holds a file `words`."""
    key = f"${{{MARKER}#*:step/}}"
    begin, end = f'echo "began {key}" >> {ledger};', f'echo "ended {key}" >> {ledger}'

    def step(name: str, script: str, more: str = "", inputs: Mapping[str, str] | None = None) -> str:
        given = "".join(f'      - {{name: {one}, value: "{value}"}}\n' for one, value in (inputs or {}).items())
        return f"  - name: {name}\n    image: host\n    command: [sh, -c, '{begin} {script} {end}']\n{more}" + (
            f"    inputs:\n{given}" if given else ""
        )

    def workflow(name: str, *steps: str, outputs: str = "[]") -> str:
        return f"name: {name}\ninputs: [{{name: number}}]\noutputs: {outputs}\nsteps:\n{''.join(steps)}"

    def gives(name: str) -> str:
        return f"    outputs: [{{name: {name}}}]\n"

    def write(name: str, value: str) -> str:
        return f'printf %s "{value}" > "$FUSEML_RESULTS_DIR/{name}" || exit {NO_ROOM};'

    number = {"number": "{{ inputs.number }}"}
    parts = [f"p{index}" for index in range(FAN)]
    return (
        Kind(
            name="chain",
            weight=4,
            text=workflow(
                "chain",
                step("one", write("first", "n$FUSEML_NUMBER"), gives("first"), number),
                step(
                    "two",
                    "sleep 0.2;" + write("second", "$FUSEML_X-b"),
                    gives("second"),
                    {"x": "{{ steps.one.outputs.first }}"},
                ),
                step(
                    "three",
                    write("third", "$FUSEML_X-c"),
                    gives("third"),
                    {"x": "{{ steps.two.outputs.second }}"},
                ),
                outputs="[{name: third}]",
            ),
            state=RunState.SUCCEEDED,
            steps=dict.fromkeys(("one", "two", "three"), _DONE),
            outputs=lambda number: {"third": f"n{number}-b-c"},
        ),
        Kind(
            name="fan",
            weight=3,
            text=workflow(
                "fan",
                *(
                    step(part, write("part", f"$FUSEML_NUMBER.{part}"), f"    needs: []\n{gives('part')}", number)
                    for part in parts
                ),
                step(
                    "join",
                    write("all", " ".join(f"$FUSEML_{part.upper()}" for part in parts)),
                    gives("all"),
                    {part: f"{{{{ steps.{part}.outputs.part }}}}" for part in parts},
                ),
                outputs="[{name: all}]",
            ),
            state=RunState.SUCCEEDED,
            steps=dict.fromkeys((*parts, "join"), _DONE),
            outputs=lambda number: {"all": " ".join(f"{number}.{part}" for part in parts)},
        ),
        Kind(
            name="flaky",
            weight=1,
            text=workflow(
                "flaky",
                step(
                    "third-time",
                    f"test ${{{MARKER}##*/}} -ge 3 || exit 9;",
                    "    retry: {limit: 3, backoff: 1s, max_backoff: 1s}\n",
                ),
                step("after", ""),
            ),
            state=RunState.SUCCEEDED,
            steps={"third-time": _RETRIED, "after": _DONE},
        ),
        Kind(
            name="hopeless",
            weight=1,
            text=workflow(
                "hopeless",
                step("breaks", "exit 7;", "    retry: {limit: 1, backoff: 1s}\n"),
                step("never", ""),
            ),
            state=RunState.FAILED,
            steps={"breaks": _BROKEN, "never": _SKIPPED},
        ),
        Kind(
            name="slow",
            weight=1,
            # It does not listen to SIGTERM, and has a child.
            text=workflow(
                "slow",
                step("late", 'trap "" TERM; sleep 1000 & sleep 1000;', "    timeout: 1s\n"),
                step("never", ""),
            ),
            state=RunState.FAILED,
            steps={"late": _LATE, "never": _SKIPPED},
        ),
        Kind(
            name="endless",
            weight=1,
            text=workflow("endless", step("endless", "sleep 1000;"), step("never", "")),
            state=RunState.CANCELLED,
            steps={"endless": _CANCELLED, "never": _CANCELLED},
            wants_cancel=True,
        ),
        Kind(
            name="steered",
            weight=1,
            text=workflow(
                "steered",
                "  - name: steer\n    image: example.org/steering:1\n    outputs: [{name: steered}]\n"
                f"    inputs: [{{name: ledger, value: {ledger}}}]\n",
                step(
                    "read",
                    write("both", "$(cat words), $FUSEML_S"),
                    f"{gives('both')}    inputs:\n"
                    f"      - {{name: data, codeset: {{name: {codeset}, path: /project}}}}\n"
                    '      - {name: s, value: "{{ steps.steer.outputs.steered }}"}\n',
                ),
                outputs="[{name: both}]",
            ),
            state=RunState.SUCCEEDED,
            steps={"steer": _STEERED, "read": _DONE},
            outputs=lambda _number: {"both": "some words, steered by steer"},
        ),
    )


class Requests:
    """Run requests, each with a number of its own."""

    def __init__(self, kinds: tuple[Kind, ...], chance: random.Random) -> None:
        self.asked: dict[int, Kind] = {}
        self._kinds = kinds
        self._chance = chance
        self._due: list[Kind] = []

    def ask_for_every_kind(self) -> None:
        """Let the next requests be of every kind once."""
        self._due = list(self._kinds)

    def more(self, count: int) -> str:
        """A file with so many new requests."""
        documents = []
        for _ in range(count):
            number = len(self.asked)
            kind = self.asked[number] = self._due.pop() if self._due else self._any()
            documents.append(f"workflow: {kind.name}\ninputs: {{number: '{number}'}}\n")
        return "---\n".join(documents)

    def _any(self) -> Kind:
        (kind,) = self._chance.choices(self._kinds, [kind.weight for kind in self._kinds])
        return kind
