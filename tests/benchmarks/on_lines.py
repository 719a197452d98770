"""The workloads in one Python process, as a script would compute them: from the lines of a batch to rows."""

from __future__ import annotations

import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from .customers import customers
from .delivered import out
from .extract import QUICK
from .workloads import CLIENT, INTERVAL, WINDOW

Rows = Iterable[tuple[Any, ...]]
Step = Callable[[Iterable[str]], Rows]


def one_client() -> Step:
    return lambda lines: [(sum(line.startswith(f"{CLIENT} ") for line in lines),)]


def sums() -> Step:
    def step(lines: Iterable[str]) -> Rows:
        sizes = [QUICK.size(line) for line in lines]
        return [(len(sizes), sum(sizes))]

    return step


def groups() -> Step:
    return lambda lines: [(*key, hits) for key, hits in Counter(map(QUICK.status_and_path, lines)).items() if key]


def busiest_paths(window: int = WINDOW) -> Step:
    kept: deque[Counter[str]] = deque(maxlen=window // INTERVAL)

    def step(lines: Iterable[str]) -> Rows:
        kept.append(Counter(map(QUICK.path, lines)))
        total = sum(kept, Counter[str]())
        return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:10]

    return step


def running_counts() -> Step:
    total: Counter[str] = Counter()

    def step(lines: Iterable[str]) -> Rows:
        total.update(map(QUICK.client, lines))
        return [(len(total), sum(total.values()), sum(hits * hits for hits in total.values()))]

    return step


def enriched() -> Step:
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = customers()

    def step(lines: Iterable[str]) -> Rows:
        rows = [QUICK.enriched(line) for line in lines]
        client, status, path, size = zip(*rows, strict=True)
        columns = {
            "client_ip": client,
            "status": pa.array(status, pa.int32()),
            "path": path,
            "bytes": pa.array(size, pa.int64()),
            "customer": [known.get(ip) for ip in client],
        }
        out().mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), out() / f"{uuid.uuid4().hex}.parquet")
        return []

    return step


STEPS: dict[str, Callable[..., Step]] = {
    "W1": one_client,
    "W2": sums,
    "W3": groups,
    "W4": busiest_paths,
    "W5": running_counts,
    "W6": enriched,
}
