"""Clean lines, compared with a plain reading of all bytes at once."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import itertools
import lzma
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkstream_kit.sources import _lines

PACKED = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
LINES = b"".join(b"%06d a line that compresses\n" % n for n in range(100_000))


def expected(data: bytes, encoding: str) -> list[str]:
    """The lines of all bytes at once."""
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = re.split(rb"\r\n|\r|\n", data)
    if not lines[-1].lstrip(b"\0"):
        lines.pop()
    return [line.lstrip(b"\0").decode(encoding, "replace") for line in lines]


def blocks(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[a:b] for a, b in itertools.pairwise(bounds) if a != b)


@given(
    data=st.lists(
        st.sampled_from(
            [b"a", b"bc", b"\n", b"\r", b"\r\n", b"\0", b"\0\0\0", "é€😀".encode(), b"\xff", b"\xc3", b" "]
        ),
        max_size=30,
    ).map(b"".join),
    bom=st.booleans(),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=8),
    encoding=st.sampled_from(["utf-8", "latin-1", "cp1252"]),
)
def test_lines_do_not_depend_on_how_they_are_cut_into_blocks(
    data: bytes, bom: bool, cuts: list[int], encoding: str
) -> None:
    data = codecs.BOM_UTF8 * bom + data
    text = b"".join(_lines.clean(blocks(data, cuts), encoding)).decode()
    assert text.split("\n")[:-1] == expected(data, encoding)
    assert text.endswith("\n") or not text


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_the_rest_of_a_long_line_is_counted_and_dropped(ending: bytes) -> None:
    dropped: list[int] = []
    data = b"one\n" + b"x" * (3 * _lines.MAX_LINE + 5) + ending
    cut = [data[at : at + _lines.BLOCK] for at in range(0, len(data), _lines.BLOCK)]
    lines = b"".join(_lines.clean([*cut, b"two\n"] if ending else cut, cut=dropped.append)).splitlines()
    assert [len(line) for line in lines] == [3, _lines.MAX_LINE, *([3] if ending else [])]
    assert dropped == [2 * _lines.MAX_LINE + 5]


def test_a_hole_is_not_a_part_of_the_line_behind_it() -> None:
    dropped: list[int] = []
    hole = [bytes(_lines.BLOCK)] * 5
    assert b"".join(_lines.clean([*hole, b"\0\0a line\n"], cut=dropped.append)) == b"a line\n"
    assert dropped == []


@pytest.mark.parametrize("kind", PACKED)
def test_packed_bytes_are_known_and_unpacked(kind: str) -> None:
    packed = PACKED[kind](LINES)
    assert _lines.packing(packed[:16]) == kind
    assert b"".join(_lines.unpack(kind, io.BytesIO(packed))) == LINES


def test_several_gzip_files_in_one_are_all_read() -> None:
    both = gzip.compress(b"one\n") + gzip.compress(b"two\n")
    assert b"".join(_lines.unpack("gzip", io.BytesIO(both))) == b"one\ntwo\n"


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize(
    ("harm", "error"), [(lambda data: data[: len(data) // 2], EOFError), (lambda data: spoilt(data), ValueError)]
)
def test_what_comes_before_damage_is_returned(
    kind: str, harm: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    came = b""
    with pytest.raises(error):
        for block in _lines.unpack(kind, io.BytesIO(harm(PACKED[kind](LINES)))):
            came += block
    sound = len(LINES) // 3  # gzip notices damage only some bytes later, at the latest by the checksum at its end
    assert came[:sound] == LINES[: min(sound, len(came))]
    assert came or kind != "gzip", "the others unpack by large blocks"


def spoilt(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes(byte ^ 0xFF for byte in data[half : half + 64]) + data[half + 64 :]


def test_an_archive_is_not_read_as_lines() -> None:
    with pytest.raises(ValueError, match="is a zip file, which cannot be read as lines"):
        list(_lines.unpack("zip", io.BytesIO(b"PK\3\4")))


@given(start=st.integers(0, 40), length=st.integers(0, 40), cuts=st.lists(st.integers(0, 99), max_size=5))
def test_a_part_is_the_bytes_in_between(start: int, length: int, cuts: list[int]) -> None:
    data = bytes(range(50))
    tail = _lines.Tail(blocks(data, cuts), 8)
    if start + length > len(data):
        with pytest.raises(EOFError):
            list(_lines.part(tail, start, length))
    else:
        assert b"".join(_lines.part(tail, start, length)) == data[start : start + length]
