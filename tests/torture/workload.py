"""What the campaign lets run: small workflows whose proper end is known from the number that a run is given."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from fusemld.executors.process.spawning import MARKER
from fusemld.model.run import Ending, RunState, StepState

STEERING_PLUGIN = '''\
"""Plugin steps that write down when they begin."""

import anyio

from fusemld.hooks.services import ServiceRequest
from fusemld.hooks.specs import hookimpl
from fusemld.hooks.steps import StepInputs
from fusemld.model.application import Application
from fusemld.model.errors import StartError, UnavailableError


def begin(context):
    with open(context.inputs["ledger"], "a") as ledger:
        ledger.write(f"began {context.key}\\n")


class Steering:
    repositories = ("example.org/steering",)
    inputs = StepInputs(required=frozenset({"ledger"}), open=True)

    async def run(self, context):
        begin(context)
        await anyio.sleep(0.05)
        return {name: f"{name} by {context.key.step}" for name in context.outputs}


class Serving:
    """Serves the text, and gives what the service answers. Whatever is killed meanwhile, it tries again."""

    repositories = ("example.org/serving",)
    inputs = StepInputs(required=frozenset({"ledger", "name", "text"}))

    async def run(self, context):
        begin(context)
        name, text = context.inputs["name"], context.inputs["text"]
        try:
            request = ServiceRequest(name=name, kind="text", parameters={"text": text})
            address = await context.services.ensure(request, context.note)
            await context.applications.record(
                Application(
                    name=name,
                    type="predictor",
                    url=address.url,
                    run=context.key.run,
                    run_created_at=context.run_created_at,
                    services=(name,),
                )
            )
            answer = await answer_of(address)
        except (OSError, StartError, anyio.BrokenResourceError) as error:
            raise UnavailableError(f"{name} does not serve: {error}") from error
        if answer != text:
            raise UnavailableError(f"{name} answers {answer!r}: who served before is still there")
        return {"answer": answer}


async def answer_of(address):
    with anyio.fail_after(5):
        async with await anyio.connect_tcp(address.host, address.port) as stream:
            await stream.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
            received = b""
            while True:
                try:
                    received += await stream.receive()
                except anyio.EndOfStream:
                    return received.partition(b"\\r\\n\\r\\n")[2].decode()


@hookimpl
def fusemld_plugin_steps():
    return [Steering(), Serving()]
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

SERVED = "served"
"""The workflow that leaves an application behind, `served-NUMBER`."""
FAN = 4
LONG = 100_000
"""More characters of an output than the database takes."""
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

    def serve(name: str, word: str) -> str:
        return (
            f"  - name: {name}\n    image: example.org/serving:1\n    outputs: [{{name: answer}}]\n    inputs:\n"
            f"      - {{name: ledger, value: {ledger}}}\n"
            '      - {name: name, value: "served-{{ inputs.number }}"}\n'
            f'      - {{name: text, value: "{word} of {{{{ inputs.number }}}}"}}\n'
        )

    number = {"number": "{{ inputs.number }}"}
    parts = [f"p{index}" for index in range(FAN)]
    return (
        Kind(
            name="chain",
            weight=8,
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
            weight=6,
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
            weight=2,
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
            weight=2,
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
            weight=2,
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
            weight=2,
            text=workflow("endless", step("endless", "sleep 1000;"), step("never", "")),
            state=RunState.CANCELLED,
            steps={"endless": _CANCELLED, "never": _CANCELLED},
            wants_cancel=True,
        ),
        Kind(
            name="steered",
            weight=2,
            text=workflow(
                "steered",
                "  - name: steer\n    image: example.org/steering:1\n    outputs: [{name: steered}]\n"
                f"    inputs: [{{name: ledger, value: {ledger}}}]\n",
                step(
                    "read",
                    write("both", f'$(cat words), $FUSEML_S$(head -c {LONG} /dev/zero | tr "\\0" .)'),
                    f"{gives('both')}    inputs:\n"
                    f"      - {{name: data, codeset: {{name: {codeset}, path: /project}}}}\n"
                    '      - {name: s, value: "{{ steps.steer.outputs.steered }}"}\n',
                ),
                outputs="[{name: both}]",
            ),
            state=RunState.SUCCEEDED,
            steps={"steer": _STEERED, "read": _DONE},
            outputs=lambda _number: {"both": "some words, steered by steer" + "." * LONG},
        ),
        Kind(
            name=SERVED,
            weight=1,
            text=workflow(SERVED, serve("serve", "one"), serve("update", "two"), outputs="[{name: answer}]"),
            state=RunState.SUCCEEDED,
            steps=dict.fromkeys(("serve", "update"), _STEERED),
            outputs=lambda number: {"answer": f"two of {number}"},
        ),
    )


class Requests:
    """Run requests, each with a number of its own."""

    def __init__(self, kinds: tuple[Kind, ...], chance: random.Random) -> None:
        self.asked: dict[int, Kind] = {}
        self._kinds = kinds
        self._chance = chance
        self._due: list[Kind] = []

    def ask_for(self, names: Collection[str]) -> None:
        """Let the next requests be of each of these kinds once."""
        self._due = [kind for kind in self._kinds if kind.name in names]

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
