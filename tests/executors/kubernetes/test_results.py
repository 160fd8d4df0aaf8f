from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors.kubernetes.results import (
    BATCH,
    COMPLETE,
    MESSAGE_LIMIT_BYTES,
    SCRIPT,
    Results,
    arguments,
    batches,
    conclude,
    from_message,
    parse,
    together,
)
from fusemld.executors.masking import HOLDS_CREDENTIAL
from fusemld.executors.outputs import ALL_OUTPUTS_LIMIT_BYTES, OUTPUT_LIMIT_BYTES
from fusemld.model.run import Ending, Outcome

SUCCESS = Outcome(ending=Ending.SUCCEEDED, exit_status=0, tail="the log")
CONTENTS = st.lists(st.none() | st.binary(max_size=2000), max_size=4)
HandOver = Callable[..., bytes]


def frames(contents: list[bytes | None], *, zipped: bool = False) -> bytes:
    """What the sidecar prints; None is an output that is not there."""
    lines = ["fusemld results 1"]
    for index, content in enumerate(contents):
        if content is None:
            lines.append(f"absent {index}")
            continue
        way, sent = ("gzip", gzip.compress(content)) if zipped else ("plain", content)
        lines.append(f"output {index} {len(content)} {hashlib.sha256(content).hexdigest()} {way}")
        lines += [*base64.encodebytes(sent).decode().splitlines(), "."]
    return "\n".join([*lines, "end", ""]).encode()


def names(contents: list[bytes | None]) -> list[str]:
    return [f"out-{index}" for index in range(len(contents))]


@given(CONTENTS, st.booleans())
def test_any_bytes_arrive(contents: list[bytes | None], zipped: bool) -> None:
    found = parse(frames(contents, zipped=zipped), names(contents))

    assert found.is_complete
    assert dict(found.values) == {f"out-{n}": content for n, content in enumerate(contents) if content is not None}
    assert found.missing == tuple(f"out-{n}" for n, content in enumerate(contents) if content is None)


@given(CONTENTS, st.data())
def test_a_log_that_was_cut_is_never_taken_for_a_whole_one(
    contents: list[bytes | None], data: st.DataObject
) -> None:
    whole = frames(contents)

    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    assert not parse(cut, names(contents)).is_complete


@given(CONTENTS, st.data())
def test_a_flipped_bit_is_noticed_or_without_effect(contents: list[bytes | None], data: st.DataObject) -> None:
    whole = frames(contents)
    place = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[place] ^= 1 << data.draw(st.integers(0, 7))

    found = parse(bytes(broken), names(contents))

    expected = {f"out-{n}": content for n, content in enumerate(contents) if content is not None}
    assert not found.is_complete or found.refused or dict(found.values) == expected


@given(st.binary(), st.lists(st.text(max_size=3), max_size=3))
def test_any_log_can_be_read(log: bytes, declared: list[str]) -> None:
    parse(log, declared)
    parse(b"fusemld results 1\n" + log, declared)


def test_of_a_sidecar_that_was_started_again_the_last_word_counts() -> None:
    first, second = frames([b"first"])[:-8], frames([b"second"])

    assert parse(first + b"\n" + second, ["x"]).values == {"x": b"second"}


@given(st.lists(st.none() | st.binary(max_size=20), max_size=20))
def test_what_several_sidecars_say_is_what_one_would_have_said(contents: list[bytes | None]) -> None:
    declared = names(contents)
    logs = [frames(contents[first : first + BATCH]) for first in range(0, len(contents), BATCH)]

    found = together(parse(log, some) for log, some in zip(logs, batches(declared), strict=True))

    assert found == (parse(frames(contents), declared) if contents else Results())


def test_what_one_of_several_sidecars_could_not_say_is_damage() -> None:
    parts = [parse(frames([b"1"]), ["x"]), parse(frames([b"2"])[:-4], ["y"])]

    assert together(parts).damage == parts[1].damage != ""


def test_outputs_that_were_not_declared_are_damage() -> None:
    assert parse(frames([b"1", b"2"]), ["x"]).damage
    assert parse(frames([b"1"]), ["x", "y"]).damage


def test_a_small_bomb_does_not_fill_the_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    head = f"fusemld results 1\noutput 0 1000000 {'0' * 64} gzip\n".encode()

    assert parse(head + base64.encodebytes(bomb) + b".\nend\n", ["x"]).damage


# The script


class Sidecar:
    """The script at work on a folder of results, until it is told to stop."""

    def __init__(self, argv: list[str], path: str, folder: Path, declared: list[str]) -> None:
        self._log = folder.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*argv, "-c", SCRIPT, "fusemld", *arguments(declared, str(folder))],
                stdout=log,
                stderr=log,
                env={"PATH": path},
                start_new_session=True,
            )

    def wait_until_it_waits(self) -> None:
        """Its `tail` is there once the signal is awaited."""
        pid = self._process.pid
        until = time.monotonic() + 10
        while not Path(f"/proc/{pid}/task/{pid}/children").read_text().strip():
            assert time.monotonic() < until, "the sidecar does not wait"
            time.sleep(0.005)

    def stop(self) -> bytes:
        self._process.terminate()
        assert self._process.wait(30) == 0
        return self._log.read_bytes()

    def kill(self) -> None:
        """In a pod `tail` dies with process 1; here it must be told."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def hand_over(shell_argv: tuple[list[str], str], tmp_path: Path, request: pytest.FixtureRequest) -> HandOver:
    """What the sidecar says about outputs that are written while it waits."""
    argv, path = shell_argv
    folder = tmp_path / "results"
    folder.mkdir()

    def run(
        declared: list[str], written: Mapping[str, bytes], prepare: Callable[[Path], object] = lambda _: None
    ) -> bytes:
        sidecar = Sidecar(argv, path, folder, declared)
        request.addfinalizer(sidecar.kill)
        sidecar.wait_until_it_waits()
        for name, content in written.items():
            (folder / name).write_bytes(content)
        prepare(folder)
        return sidecar.stop()

    return run


def test_the_sidecar_hands_over_what_was_written(hand_over: HandOver) -> None:
    written = {
        "text": b"hello\n",
        "binary": bytes(range(256)) * 4,
        "empty": b"",
        "compressible": b"0123456789" * 30_000,
        "noise": random.Random(0).randbytes(300_000),
        "largest": bytes(OUTPUT_LIMIT_BYTES),
        "-odd.name": b"-n",
    }

    log = hand_over([*written, "missing"], written)

    found = parse(log, [*written, "missing"])
    assert log.endswith(COMPLETE)
    assert (dict(found.values), found.missing, found.refused) == (written, ("missing",), {})
    assert len(log) < 450_000
    assert max(map(len, log.split(b"\n"))) < 120


def test_the_sidecar_reads_plain_files_only(hand_over: HandOver) -> None:
    def prepare(folder: Path) -> None:
        (folder / "link").symlink_to("/etc/passwd")
        (folder / "dangling").symlink_to("nowhere")
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")

    declared = ["link", "dangling", "folder", "pipe", "text"]

    found = parse(hand_over(declared, {"text": b"1"}, prepare), declared)

    assert found.values == {"text": b"1"}
    assert found.refused == dict.fromkeys(declared[:-1], "it is not a plain file")


def test_what_is_too_large_is_refused_with_its_size_and_not_printed(hand_over: HandOver) -> None:
    def prepare(folder: Path) -> None:
        with (folder / "x").open("wb") as file:
            file.truncate(1 << 40)

    log = hand_over(["x"], {}, prepare)

    assert len(log) < 100
    assert parse(log, ["x"]).refused == {"x": "it has 1099511627776 bytes; at most 1048576 are allowed"}


def test_all_outputs_of_a_sidecar_stay_below_what_makes_kubelet_rotate_the_log(hand_over: HandOver) -> None:
    written = {f"x{number}": random.Random(number).randbytes(OUTPUT_LIMIT_BYTES) for number in range(BATCH)}

    log = hand_over(list(written), written)

    found = parse(log, list(written))
    overhead = len("2026-11-23T11:32:22.821820715Z stdout F ")
    assert len(log) + log.count(b"\n") * overhead < 10 * 1024 * 1024
    assert found.values == written


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_the_sidecar_may_not_read_is_refused(hand_over: HandOver) -> None:
    log = hand_over(["x"], {"x": b"1"}, lambda folder: (folder / "x").chmod(0))

    assert parse(log, ["x"]).refused == {"x": "its rights do not let the sidecar read it"}


# Small outputs


def test_a_small_output_is_the_termination_message() -> None:
    assert from_message("hällo\n", "x").values == {"x": "hällo\n".encode()}


def test_an_empty_small_output_is_missing() -> None:
    assert from_message("", "x").missing == ("x",)


@pytest.mark.parametrize("message", ["x" * MESSAGE_LIMIT_BYTES, "ä" * (MESSAGE_LIMIT_BYTES // 2), "x\ufffdx"])
def test_a_small_output_that_may_have_been_cut_or_changed_is_refused(message: str) -> None:
    assert from_message(message, "x").refused


# What it means for the attempt


def test_outputs_are_texts_without_trailing_newlines() -> None:
    outcome, outputs = conclude(SUCCESS, Results(values={"a": b" 1\r\n\n", "b": b"\xff\x00\n"}))

    assert (outcome, outputs) == (SUCCESS, {"a": " 1", "b": "\udcff\x00"})


def test_all_outputs_together_may_have_so_many_bytes_and_no_more() -> None:
    one = bytes(OUTPUT_LIMIT_BYTES)
    fitting = {f"x{number}": one for number in range(ALL_OUTPUTS_LIMIT_BYTES // OUTPUT_LIMIT_BYTES)}

    allowed, _ = conclude(SUCCESS, Results(values=fitting))
    beyond, outputs = conclude(SUCCESS, Results(values={**fitting, "y": b"1", "z": b"2"}))

    assert allowed == SUCCESS
    assert (beyond.ending, outputs) == (Ending.OUTPUT_REFUSED, {})
    assert beyond.message == (
        "output y is refused: with it, the outputs have more than the 67108864 bytes together that are allowed"
    )


@pytest.mark.parametrize(
    ("results", "ending", "message"),
    [
        (Results(damage="cut"), Ending.LOST, "its outputs are lost: cut"),
        (Results(missing=("a",)), Ending.OUTPUT_MISSING, "output a: expected in /tekton/results/a"),
        (Results(refused={"a": "no"}, missing=("b",)), Ending.OUTPUT_REFUSED, "output a is refused: no"),
        (Results(values={"a": b"my s3cret"}), Ending.OUTPUT_REFUSED, f"output a is refused: {HOLDS_CREDENTIAL}"),
    ],
)
def test_without_all_its_outputs_it_is_no_success(results: Results, ending: Ending, message: str) -> None:
    outcome, outputs = conclude(SUCCESS, results, [b"s3cret"])

    assert (outcome.ending, outputs) == (ending, {})
    assert outcome.message.endswith(message)
    assert (outcome.exit_status, outcome.tail) == (0, "the log")
