"""A terminal of its own for a program, and what a person sees there."""

from __future__ import annotations

import os
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyte


class Terminal:
    """The screen of a program, as a terminal emulator draws it."""

    def __init__(self, program: subprocess.Popen[bytes], descriptor: int, columns: int, lines: int) -> None:
        self.program = program
        self._descriptor = descriptor
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """From the top to the last line that has something."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip("\n").split("\n")

    @property
    def scrolled(self) -> list[str]:
        """What has left the screen at its top."""
        return [
            "".join(line[column].data for column in sorted(line)).rstrip() for line in self._screen.history.top
        ]

    @property
    def cursor_is_hidden(self) -> bool:
        return self._screen.cursor.hidden

    def wait_for(self, *patterns: str, timeout_s: float = 30) -> list[str]:
        """The lines once there are as many as patterns and each is what its pattern says."""
        deadline = time.monotonic() + timeout_s
        while not self.shows(*patterns):
            seen = "\n".join(self.lines)
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {patterns}:\n{seen}"
            assert self.read(), f"it ended before {patterns}:\n{seen}"
        return self.lines

    def shows(self, *patterns: str) -> bool:
        """A program that is drawing may show less than it will in a moment."""
        lines = self.lines
        return len(lines) == len(patterns) and all(map(re.fullmatch, patterns, lines))

    def finish(self, timeout_s: float = 30) -> int:
        """Its exit status; everything that it has written is seen then."""
        deadline = time.monotonic() + timeout_s
        while self.read():
            assert time.monotonic() < deadline, f"it goes on after {timeout_s} s:\n" + "\n".join(self.lines)
        return self.program.wait(timeout=timeout_s)

    def read(self) -> bool:
        """What comes within a moment; False once the program has closed the terminal."""
        ready, _, _ = select.select([self._descriptor], [], [], 0.1)
        if not ready:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # Linux says EIO where the last of the other side has gone
            return False
        self._stream.feed(data)
        return bool(data)


@contextmanager
def terminal(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    columns: int = 100,
    lines: int = 24,
    kind: str = "xterm-256color",
) -> Iterator[Terminal]:
    """Runs the program in a terminal of that size; it is killed at the end if it still runs."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (lines, columns))
    sized = {name: text for name, text in environment.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    try:
        program = subprocess.Popen(
            argv,
            env=sized | {"TERM": kind},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        try:
            yield Terminal(program, ours, columns, lines)
        finally:
            program.kill()
            program.wait()
    finally:
        os.close(ours)
