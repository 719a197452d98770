"""Read the records of Kafka topics, each once, by offsets that the offset log keeps."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from ..bridge import kafka as bridge
from ..bridge.kafka import Cluster, Topic
from ..columns import Columns, column_names
from ..contracts import Offset, Source
from ..engine.chains import same_for_every_batch
from ..engine.graph import graph_of
from ..engine.rate import ALL
from ..errors import InputLost, UsageError
from ..frames import FrameStream
from ..recovery import storage
from ._kafka_offsets import RECORD, Piece, covers, pieces_of, shares_of, size_of, tasks_of

log = logging.getLogger(__name__)

Look = Mapping[str, Topic]
"""What topics held when the brokers were asked."""

Start = Callable[[Cluster, str, Topic], Sequence[int]]
"""The offset of each partition of a topic from which it is read."""


def kafka(
    ssc: StreamingContext,
    brokers: Columns,
    topics: Columns,
    *,
    start: str = "earliest",
    config: str | Mapping[str, str] | None = None,
    max_per_partition: int | None = None,
    group: str | None = None,
    name: str = "kafka",
) -> FrameStream:
    """Read the records of Kafka topics, each once.

        requests = ss.sources.kafka(ssc, "broker1:9092,broker2:9092", "access").pipe(ss.transforms.access_log.parse)

    Columns: key and value: string, topic: string, partition: int, offset: bigint, timestamp: timestamp, headers:
    array<struct<key: string, value: binary>>. Keys and values are text; cast them to binary for the bytes as they were
    sent, whatever these are. Rows of a partition are in their order.

    `topics` are names or, as in a shell, patterns: `web-*`. New topics and partitions are read from their beginning.
    `start` says where the first start of this home begins: `earliest`, `latest`, a time such as `2026-01-31T08:00Z`,
    or offsets as `{"access": {"0": 120, "1": 98}}`; later starts continue. Only records of transactions that were
    committed are read, unless isolation.level says otherwise.

    `config` are settings of Kafka's consumers, or the path of a properties file with them: security.protocol and what
    belongs to it. Passwords are best kept in such a file. With a `group`, its offsets are committed after each
    batch, for tools that watch the lag; nothing depends on them. `max_per_partition` counts offsets.

    Guarantee: replayable, exactly once. Records that are gone before they are read (retention, a topic that was deleted
    or lost its end) are never skipped silently.

    Raises MissingLibrary without Spark's connector for Kafka. Raises UsageError, and InputLost if records are gone that
    a recorded batch needs or that no batch has read, at the first batch.

    Cost: grows with the records, of which all columns are converted; each tick asks the brokers twice, with patterns
    three times.

    URI: kafka:BROKERS/TOPICS?start=...&config=...&max_per_partition=...&group=...
    """
    bridge.check_connector()
    graph = graph_of(ssc)
    settings = {"isolation.level": "read_committed", **bridge.client_settings(brokers, config)}
    if max_per_partition is not None and max_per_partition < 1:
        raise UsageError(f"got max_per_partition={max_per_partition}, expected at least 1")
    wanted = column_names(topics)
    if not wanted:
        raise UsageError(f"got topics={topics!r}, expected names or patterns of topics")
    reader = _Reader(
        Cluster(settings, f"sparkstream-{name}"),
        wanted,
        start=_start(start, wanted),
        most=max_per_partition,
        group=group,
        directory=lambda: graph.home / f"sources/{name}/given-up",
        taken=lambda: graph.log.last.end_offsets.get(name),
        may_give_up=lambda topic: topic in graph.give_up_files,
    )
    source = Source(
        reader.latest_offset,
        functools.partial(reader.read, graph.session),
        bridge.SCHEMA,
        reader.limit,
        size=size_of,
        prepare=reader.prepare,
        done=reader.done,
    )
    return FrameStream.from_source(ssc, name, source).transform(_as_text)


@same_for_every_batch
def _as_text(frame: DataFrame) -> DataFrame:
    text = [F.col(name).cast("string").alias(name) for name in ("key", "value")]
    return frame.select(*text, "topic", "partition", "offset", "timestamp", "headers")


class _Reader:
    """The topics that a job reads.

    `taken` returns the offset up to which batches have been recorded, `may_give_up` whether records of a topic may be
    missing, `directory` where it is noted which ones are.
    """

    def __init__(
        self,
        cluster: Cluster,
        wanted: Sequence[str],
        *,
        start: Start,
        most: int | None,
        group: str | None,
        directory: Callable[[], str],
        taken: Callable[[], Offset],
        may_give_up: Callable[[str], bool],
    ):
        self._cluster, self._wanted, self._start, self._most, self._group = cluster, wanted, start, most, group
        self._directory, self._taken, self._may_give_up = directory, taken, may_give_up
        self._seen: Look = {}  # when a batch was last planned
        self._is_fresh = False  # whether no batch has been prepared since then
        self._prepared: tuple[Offset, Offset] | None = None  # by the range of a batch that has not been read yet
        self._warned: set[str] = set()

    # --- what a source is

    def latest_offset(self, now: int | None) -> dict[str, Any]:
        """Where the topics end now."""
        taken = self._taken()
        known: dict[str, Any] = taken or {}
        chosen = self._chosen(known)
        self._seen, self._is_fresh = self._cluster.topics(chosen), True
        missing = [name for name in chosen if not (name in self._seen or name in known or self._may_give_up(name))]
        if missing:
            there = ", ".join(self._cluster.names()[:10]) or "none"
            raise UsageError(f"got the topic {missing[0]!r}, and the brokers have {there}: create it, or correct it")
        latest = {name: self._latest(name, known.get(name), is_first=taken is None) for name in chosen}
        return {name: topic for name, topic in (known | latest).items() if topic is not None}

    def limit(self, start: Offset, end: Offset, most: int) -> Offset:
        """The offset at most this number of records after another, with a share of what each partition still has."""
        pieces = pieces_of(start, end)
        begin = [min(max(piece.start, self._first(piece)), piece.end) for piece in pieces]
        sizes = [min(piece.end - at, self._most or ALL) for piece, at in zip(pieces, begin, strict=True)]
        limited = {name: {**topic, "next": list(topic["next"])} for name, topic in end.items()}
        for piece, at, share in zip(pieces, begin, shares_of(sizes, most), strict=True):
            limited[piece.topic]["next"][piece.partition] = at + share
        return limited

    def prepare(self, start: Offset, end: Offset) -> Offset:
        """Refuse a range whose records are gone."""
        pieces = pieces_of(start, end)
        if not self._is_fresh or any(piece.topic not in self._seen for piece in pieces):  # a later batch of a drain
            self._seen = self._looked_at(pieces)
        self._still_there(pieces, self._seen)
        self._is_fresh, self._prepared = False, (start, end)
        return end

    def read(self, session: SparkSession, start: Offset, end: Offset) -> DataFrame:
        """The records of an offset range, those of each partition in their order."""
        pieces = pieces_of(start, end)
        was_prepared, self._prepared = self._prepared == (start, end), None
        # else a batch that runs again, or one that a window or a state needs
        left = self._still_there(pieces, self._seen if was_prepared else self._looked_at(pieces))
        size = sum(piece.end - piece.start for piece in left) * RECORD
        return self._cluster.records(session, tasks_of(left), size)

    def done(self, end: Offset) -> None:
        """Tell Kafka how far the group has read."""
        if self._group:
            self._cluster.commit(self._group, {name: topic["next"] for name, topic in (end or {}).items()})

    # --- topics

    def _chosen(self, known: Mapping[str, Any]) -> list[str]:
        """The names of the topics to read, in order: also of those that matched a pattern and are gone."""
        if not any(map(_is_pattern, self._wanted)):
            return sorted(set(self._wanted))
        there = {*self._cluster.names(), *known}
        return sorted(
            {
                *(name for name in there if any(fnmatchcase(name, wanted) for wanted in self._wanted)),
                *(wanted for wanted in self._wanted if not _is_pattern(wanted)),
            }
        )

    def _latest(self, name: str, known: dict[str, Any] | None, *, is_first: bool) -> dict[str, Any] | None:
        """Where a topic ends now; None if it is gone. InputLost if it is another one than was read, or is shorter."""
        topic = self._seen.get(name)
        if known and (topic is None or topic.id != known["id"] or len(topic.next) < len(known["next"])):
            self._give_up(
                name,
                f"the topic {name!r}, read up to the offsets {known['next']}, has been deleted"
                f"{' and created again' if topic else ''}; what no batch has read of it is gone",
            )
            self._cluster.forget_fetched()
            known = None
        if topic is None:
            return None
        if known is None:
            first = list(self._start(self._cluster, name, topic)) if is_first else topic.first
            return {"id": topic.id, "first": first, "next": [*map(max, first, topic.next)]}
        new = len(topic.next) - len(known["next"])
        after = self._not_shorter(name, topic, known["next"] + [0] * new)
        return {"id": topic.id, "first": known["first"] + [0] * new, "next": after}

    def _not_shorter(self, name: str, topic: Topic, read: Sequence[int]) -> list[int]:
        """Where the partitions of a topic end, not before where they were read to; InputLost if records are lost.

        An open transaction hides records that were read without regard to transactions.
        """
        if all(end >= at for at, end in zip(read, topic.next, strict=True)):
            return topic.next
        written = self._cluster.written(name, len(topic.next))
        after = []
        for partition, (at, visible, end) in enumerate(zip(read, topic.next, written, strict=True)):
            if end < at:
                self._give_up(
                    name,
                    f"partition {partition} of the topic {name!r} ends at {end}, and was read up to {at}: the brokers "
                    "have lost records",
                )
                self._cluster.forget_fetched()
            after.append(visible if end < at else max(at, visible))
        return after

    # --- what is gone

    def _looked_at(self, pieces: Sequence[Piece]) -> Look:
        return self._cluster.topics(sorted({piece.topic for piece in pieces}))

    def _first(self, piece: Piece) -> int:
        """The first offset that the partition still has; 0 if the topic is another one."""
        topic = self._seen.get(piece.topic)
        return topic.first[piece.partition] if topic and topic.id == piece.id else 0

    def _still_there(self, pieces: Sequence[Piece], look: Look) -> list[Piece]:
        """What the topics still have of all pieces; InputLost if that is not all, unless the rest is given up."""
        notes = functools.cache(lambda: storage.names(self._directory()))  # listed if something is missing
        left = [self._left(piece, look.get(piece.topic), notes) for piece in pieces]
        return [piece for piece in left if piece.start < piece.end]

    def _left(self, piece: Piece, topic: Topic | None, notes: Callable[[], Sequence[str]]) -> Piece:
        if topic is None or topic.id != piece.id:
            self._note_lost(piece, "the topic has been deleted", notes)
            return piece._replace(start=piece.end)
        first, after = topic.first[piece.partition], topic.next[piece.partition]
        if after < piece.end:
            after = self._cluster.written(piece.topic, len(topic.next))[piece.partition]
        if piece.start < first:
            self._note_lost(piece._replace(end=min(first, piece.end)), "Kafka has removed them, by retention", notes)
        if after < piece.end:
            self._note_lost(piece._replace(start=max(after, piece.start)), "the brokers have lost them", notes)
        start = min(max(piece.start, first), piece.end)
        return piece._replace(start=start, end=max(start, min(piece.end, after)))

    def _note_lost(self, lost: Piece, why: str, notes: Callable[[], Sequence[str]]) -> None:
        """Note that records are given up; InputLost if nobody has said so."""
        if any(covers(note, lost) for note in notes()):
            return
        what = f"the records {lost.start} to {lost.end - 1} of partition {lost.partition} of the topic {lost.topic!r}"
        self._give_up(lost.topic, f"{what} are gone ({why})")
        note = f"{lost.id}.{lost.partition}.{lost.start}-{lost.end}"
        storage.write(f"{self._directory()}/{note}", f"{what} were given up: {why}\n")

    def _give_up(self, topic: str, what: str) -> None:
        """Warn of what is lost; InputLost unless the topic may be given up."""
        if not self._may_give_up(topic):
            raise InputLost(f"{what}: --give-up {topic} continues without")
        if what not in self._warned:
            self._warned.add(what)
            log.warning("%s, and given up", what)


def _is_pattern(name: str) -> bool:
    return any(c in name for c in "*?[")


# --- where reading begins


def _start(text: str, wanted: Sequence[str]) -> Start:
    """What `start` says; UsageError for anything else."""
    if text == "earliest":
        return lambda cluster, name, topic: topic.first
    if text == "latest":
        return lambda cluster, name, topic: topic.next
    if text.startswith("{"):
        return functools.partial(_given, _offsets(text, wanted))
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise UsageError(
            f"got start={text}, expected earliest, latest, a time such as 2026-01-31T08:00Z, or offsets such as "
            '{"access": {"0": 120, "1": 98}}'
        ) from None
    if at.tzinfo is None:
        full = f"{at:%Y-%m-%dT%H:%M}"
        raise UsageError(f"got start={text}, expected its time zone, too: {full}Z, {full}+01:00")
    return functools.partial(_since, round(at.timestamp() * 1000))


def _offsets(text: str, wanted: Sequence[str]) -> dict[str, dict[int, int]]:
    expected = 'expected offsets such as {"access": {"0": 120, "1": 98}}'
    try:
        found = {topic: {int(n): at for n, at in given.items()} for topic, given in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError):
        raise UsageError(f"got start={text}, {expected}") from None
    for topic, given in found.items():
        if not any(fnmatchcase(topic, name) for name in wanted):
            raise UsageError(f"got start={text}, and the topics {', '.join(wanted)}: {topic!r} is not read")
        if not all(type(at) is int and n >= 0 for n, at in given.items()):
            raise UsageError(f"got start={text}, {expected}")
    return found


def _given(offsets: Mapping[str, Mapping[int, int]], _: Cluster, name: str, topic: Topic) -> list[int]:
    """The offsets that were given; of other partitions the first one."""
    given = offsets.get(name, {})
    unknown = [n for n in given if n >= len(topic.first)]
    if unknown:
        raise UsageError(f"got an offset of partition {unknown[0]} of the topic {name!r}, which has {len(topic.first)}")
    begin = [given.get(n, first) for n, first in enumerate(topic.first)]
    for n, (at, first, after) in enumerate(zip(begin, *topic[1:], strict=True)):
        if not first <= at <= after:
            raise UsageError(
                f"got the offset {at} of partition {n} of the topic {name!r}, which begins at {first} and ends at "
                f"{after}"
            )
    return begin


def _since(time: int, cluster: Cluster, name: str, topic: Topic) -> list[int]:
    """The offset of the first record since a time in ms; after the last one if there is none."""
    found = cluster.offsets_at(time, {name: len(topic.first)})[name]
    return [after if at < 0 else at for at, after in zip(found, topic.next, strict=True)]
