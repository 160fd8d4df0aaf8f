from __future__ import annotations

import msgspec
import pytest

from fusemld.executors.process import wire
from fusemld.executors.process.wire import Forget, FrameError, Hello, Told, bodies, deliverable, frame, to_daemon
from fusemld.hooks.processes import ProcessEnded

LIMIT_BYTES = 1000


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FRAME_LIMIT_BYTES", LIMIT_BYTES)
    monkeypatch.setattr(wire, "ALL_OUTPUTS_LIMIT_BYTES", 500)


def ended(outputs: dict[str, bytes] | None = None, refused: dict[str, str] | None = None) -> ProcessEnded:
    return ProcessEnded(key="a", at=1.0, exit_status=0, outputs=outputs or {}, refused_outputs=refused or {})


def test_a_frame_that_the_other_side_refuses_is_not_made() -> None:
    around_bytes = len(frame(Forget(keys=("x" * 300,)))) - 300
    largest = "x" * (4 + LIMIT_BYTES - around_bytes)

    received = list(bodies(bytearray(frame(Forget(keys=(largest,))))))
    with pytest.raises(FrameError, match="a frame of 1001 bytes; at most 1000 are allowed"):
        frame(Forget(keys=(largest + "x",)))

    assert [len(body) for body in received] == [LIMIT_BYTES]


def test_a_frame_beyond_the_limit_is_refused_before_it_has_arrived() -> None:
    received = bytearray(frame(Hello(version=1, pid=2, journal="j")) + (1001).to_bytes(4, "big"))
    arriving = bodies(received)

    assert to_daemon.decode(next(arriving)) == Hello(version=1, pid=2, journal="j")
    with pytest.raises(FrameError, match="a frame of 1001 bytes"):
        next(arriving)


@pytest.mark.parametrize(
    ("event", "refused"),
    [
        (ended({"x": bytes(400), "y": bytes(100), "z": bytes(200)}), {}),
        (ended({"x": bytes(400), "y": bytes(101), "z": bytes(500)}), {"y": "more than the 500 bytes together"}),
        (ended(refused={"x": "no" * 300, "y": "no" * 300}), {"x": "nonono"}),
    ],
    ids=["fits", "outputs", "reasons"],
)
def test_an_end_too_large_for_a_frame_is_told_with_one_reason_in_the_place_of_its_outputs(
    event: ProcessEnded, refused: dict[str, str]
) -> None:
    told = deliverable(event)

    assert frame(Told(id=2**63 - 1, event=told))
    assert told.refused_outputs.keys() == refused.keys()
    assert all(words in told.refused_outputs[name] for name, words in refused.items())
    assert told.outputs == ({} if refused else event.outputs)
    assert (told.key, told.at, told.exit_status) == (event.key, event.at, event.exit_status)


def test_the_greeting_of_an_earlier_release_names_no_journal() -> None:
    assert to_daemon.decode(msgspec.msgpack.encode(["hello", 1, 2])) == Hello(version=1, pid=2, journal="")
