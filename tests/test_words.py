"""The words of the project: what reads like a translation, and names that were given up, do not come back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHERE = [
    *("sparkstream_kit/**/*.py", "jobs/**/*.py", "tests/**/*.py", "docs/*", "*.md", "conf/*", "scripts/*"),
    *("tests/**/*.md", "jobs/**/*.md"),
]

# A pattern, what to write in its place, and a line that it must refuse. Underscores count as spaces: test names are
# sentences.
PATTERNS = [
    (r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer|more\b|way\b|other\b)[a-z]", "is not a", "this is no log line"),
    (r"\b(?:is|are|was|were) told\b", "is reported", "the reason is told"),
    (r"\b(?:go|goes|gone|went|going) on with\b", "continue with, resume", "it goes on with that"),
    (r"\banew\b", "again, from scratch", "start it anew"),
    (r"\bfor ever\b", "forever", "it waits for ever"),
    (r"\bso many\b", "this many, that many", "at most so many rows"),
    (r"\bpass(?:es|ed) over\b", "skip, ignore", "empty files are passed over"),
    (r"\b(?:owed|owes|owe)\b", "pending, unfinished", "the batch is owed"),
    (r"\b(?:stop|stops|stopped|end|ends|ended|drained) in order\b(?! of| to)", "gracefully", "it stops in order"),
    (r"\b(?:ground|first) floor\b|\bstorey", "DStream helpers, FrameStream", "the ground floor"),
    (r"\bcan store nothing any more\b", "stopped storing data", "a receiver can store nothing any more"),
    (r"\bthe Moment\b|\bclass Moment\b|\bCarried\b|\bPace\b|\bfree_name\b", "the field's word", "class Moment"),
    (r"\bof_the_batch\b|\bSourceOf\b|\bOutputTo\b|\bStayStopped\b", "the field's word", "def build(source: SourceOf)"),
]


def complaints(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, better, _ in PATTERNS:
            found = re.search(pattern, line.replace("_", " ")) or re.search(pattern, line)
            if found:
                yield f"{number}: {found[0]!r}: write {better}"


def files() -> list[Path]:
    found = {file for pattern in WHERE for file in ROOT.glob(pattern) if file.suffix in ("", ".py", ".md", ".conf")}
    return sorted(file for file in found - {Path(__file__)} if file.is_file())


def test_the_words_are_those_of_the_field() -> None:
    seen = files()
    assert len(seen) > 100
    assert [f"{f.relative_to(ROOT)}:{complaint}" for f in seen for complaint in complaints(f.read_text())] == []


@pytest.mark.parametrize(("bad", "better"), [(bad, better) for _, better, bad in PATTERNS])
def test_a_line_that_reads_like_a_translation_is_refused(bad: str, better: str) -> None:
    assert any(better in complaint for complaint in complaints(bad))
    assert list(complaints(f"def test_{bad.replace(' ', '_')}() -> None:")), "in the name of a test, too"


@pytest.mark.parametrize(
    "good",
    ["there is no longer a lease", "rows in order of their times", "sort them in order to compare", "he told nobody"],
)
def test_a_line_that_a_native_would_write_is_accepted(good: str) -> None:
    assert list(complaints(good)) == []
