"""Looks for files that break the reader, guided by the code they reach: `just fuzz`, for as long as one likes.

Needs atheris, which is not among the developers' tools. What it finds stays in the folder of the corpus.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fusemld.spec", "yaml"], enable_loader_override=False):
    from tests.spec.mutations import SEEDS, TOKENS
    from tests.spec.test_fuzz import check


def look(data: bytes) -> None:
    check(data)


def main() -> None:
    """The first argument is the folder of the corpus, the others are libFuzzer's."""
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.with_name("words")
    escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS if len(token) < 60)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    options = [f"-dict={words}", f"-artifact_prefix={corpus.parent}/", "-rss_limit_mb=1024", "-timeout=25"]
    atheris.Setup([sys.argv[0], str(corpus), *options, *sys.argv[2:]], look)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
