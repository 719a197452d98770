"""Bytes of log files as clean lines: unpacked, in UTF-8, none longer than `MAX_LINE`, each ended by one LF."""

from __future__ import annotations

import bz2
import codecs
import functools
import gzip
import lzma
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..bridge import hadoop
from ..errors import UsageError

BLOCK = 1 << 20
"""Bytes that are read at a time; no more than MAX_LINE."""

MAX_LINE = 1 << 20
"""Bytes of a line that are kept."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\\x28\xb5\x2f\xfd": "zstd",
    b"PK\3\4": "zip",
}
"""Patterns of the first bytes."""

_OPEN: dict[str, Callable[[IO[bytes]], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_LF = b"\n"


def packing(head: bytes) -> str | None:
    r"""How a file is compressed, by its first bytes; None for a plain one.

    >>> packing(b"\x1f\x8b\x08\0"), packing(b"BZh91AY&SY"), packing(b"127.0.0.1 - -")
    ('gzip', 'bzip2', None)
    """
    return next((kind for magic, kind in _MAGIC.items() if re.match(magic, head)), None)


def unpack(kind: str, file: IO[bytes]) -> Iterator[bytes]:
    """The uncompressed blocks; EOFError if the file is cut off, ValueError if it is damaged, after all before that."""
    if kind == "zstd":
        yield from _unpack_zstd(file)
        return
    if kind not in _OPEN:
        raise ValueError(f"is a {kind} file, which cannot be read as lines")
    stream = _OPEN[kind](file)
    try:
        while block := stream.read1(BLOCK):
            yield block
    except EOFError:
        raise EOFError(f"is a {kind} file that is cut off") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the content
            raise
        raise ValueError(f"is a damaged {kind} file ({error})") from None


def _unpack_zstd(file: IO[bytes]) -> Iterator[bytes]:
    """As `unpack`, by the library that Spark brings: Python has none for it before 3.14."""
    with tempfile.TemporaryDirectory(prefix="sparkstream-") as folder:
        packed, plain = Path(folder, "packed"), Path(folder, "plain")
        with packed.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        error = hadoop.unpack_zstd(str(packed), str(plain))
        with plain.open("rb") as result:
            while block := result.read(BLOCK):
                yield block
    if error is not None and "runcated" in error:
        raise EOFError("is a zstd file that is cut off")
    if error is not None:
        raise ValueError(f"is a damaged zstd file ({error})")


def count(path: Path) -> int:
    """The number of lines of a file of clean lines."""
    with path.open("rb") as file:
        return sum(block.count(_LF) for block in iter(functools.partial(file.read, BLOCK), b""))


def clean(
    blocks: Iterable[bytes],
    encoding: str | None = "utf-8",
    *,
    first: bool = True,
    cut: Callable[[int], None] = lambda n: None,
) -> Iterator[bytes]:
    r"""Blocks of lines in UTF-8, each line ended by one LF.

    >>> b"".join(clean([b"\xef\xbb\xbfcaf\xc3\xa9\r", b"\n\0\0\0hole\nend"])).decode()
    'café\nhole\nend\n'

    LF, CR and CRLF end a line, as in Spark. NULs at the beginning of a line are dropped: a
    writer that is not in append mode leaves a hole of them after a truncation. A byte order mark is dropped if these
    are the `first` blocks of a file. Bytes that are not in the encoding become U+FFFD; without one all
    stay as they are. Of a line longer than MAX_LINE
    the rest is dropped, and `cut` called with its number of bytes.
    """
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")("replace")
    ascii_is_enough = encoding is None or codecs.lookup(encoding).name in ("utf-8", "ascii")
    last, decoding = _LF, False
    blocks = _without_mark(blocks) if first else blocks
    for block in _cut_long_lines(_without_holes(_without_crs(blocks)), cut):
        if encoding is not None and (decoding or not (ascii_is_enough and block.isascii())):
            text = decoder.decode(block)
            decoding = not ascii_is_enough or bool(decoder.getstate()[0])
            block = text.encode("utf-8", "replace")
        if block:
            last = block[-1:]
            yield block
    if rest := decoder.decode(b"", final=True):
        last = b" "
        yield rest.encode()
    if last != _LF:
        yield _LF


def _without_mark(blocks: Iterable[bytes]) -> Iterator[bytes]:
    begin, blocks = b"", iter(blocks)
    for block in blocks:
        begin += block
        if len(begin) >= len(codecs.BOM_UTF8):
            break
    yield begin.removeprefix(codecs.BOM_UTF8)
    yield from blocks


def _cut_long_lines(blocks: Iterable[bytes], cut: Callable[[int], None]) -> Iterator[bytes]:
    length, dropped = 0, 0  # of the line that is open at the end of a block
    for block in blocks:
        end = block.find(_LF)
        line, rest = (block, b"") if end < 0 else (block[:end], block[end:])
        room = max(0, MAX_LINE - length)
        if len(line) > room:
            dropped += len(line) - room
            block = line[:room] + rest
        if rest:
            length = len(rest) - rest.rfind(_LF) - 1
            if dropped:
                cut(dropped)
                dropped = 0
        else:
            length += len(line)
        yield block
    if dropped:
        cut(dropped)


def _without_holes(blocks: Iterable[bytes]) -> Iterator[bytes]:
    begins = True  # whether a block begins at the beginning of a line
    for block in blocks:
        if b"\0" in block:
            block = re.sub(rb"\n\0+", _LF, block.lstrip(b"\0") if begins else block)
        if block:
            begins = block.endswith(_LF)
            yield block


def _without_crs(blocks: Iterable[bytes]) -> Iterator[bytes]:
    held = b""  # a CR whose LF may be in the next block
    for block in blocks:
        block = held + block
        held = b"\r" if block.endswith(b"\r") else b""
        block = block[: len(block) - len(held)]
        yield block.replace(b"\r\n", _LF).replace(b"\r", _LF) if b"\r" in block else block
    if held:
        yield _LF


def check_encoding(name: str) -> str:
    """Return the encoding if its line ends are those of ASCII; UsageError otherwise."""
    try:
        ascii_as_it_is = bytes(range(128)).decode(name).encode() == bytes(range(128))
        if ascii_as_it_is and codecs.getincrementaldecoder(name)("replace").decode(b"\n\xff"):
            return name
    except (UnicodeError, TypeError):
        pass
    except LookupError:
        raise UsageError(f"got the encoding {name!r}, expected one that Python knows, such as latin-1") from None
    raise UsageError(f"got the encoding {name!r}, expected one that contains ASCII: convert the files with iconv")


# --- parts of files


def blocks_of(file: IO[bytes], length: int) -> Iterator[bytes]:
    """The next `length` bytes of a file; EOFError if it has fewer."""
    while length:
        block = file.read(min(length, BLOCK))
        if not block:
            raise EOFError("ends early")
        length -= len(block)
        yield block


def part(blocks: Iterable[bytes], start: int, length: int) -> Iterator[bytes]:
    """The bytes from `start` on; EOFError if there are fewer than `length`."""
    at, end = 0, start + length
    for block in blocks:
        if inside := block[max(0, start - at) : end - at]:
            yield inside
        at += len(block)
        if at >= end:
            return
    if at < end:
        raise EOFError("ends early")


def without_line_end(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks without a line end that they begin with."""
    begin = b""
    blocks = iter(blocks)
    for block in blocks:
        begin += block
        if begin != b"\r":
            break
    yield re.sub(rb"\A\r?\n", b"", begin)
    yield from blocks


class Tail:
    """Blocks, and the last bytes of those that were read so far."""

    def __init__(self, blocks: Iterable[bytes], length: int):
        self._blocks, self._length, self.bytes = blocks, length, b""

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.bytes = (self.bytes + block[-self._length :])[-self._length :]
            yield block
