"""Batches that an operator set aside with `sparkstream skip`: they run without their input, which is kept."""

from __future__ import annotations

import logging

from ..errors import KitError
from ..recovery import snapshots, storage
from ..recovery.offset_log import Entry
from .graph import Graph

log = logging.getLogger(__name__)


def set_aside(graph: Graph, entry: Entry) -> None:
    """Write the rows of each source to `skipped/<n>/<source>` in the home, as Parquet, before the batch runs without.

    What is lost or damaged is left out, with a warning: the batch may have failed for that reason. Any other error,
    such as a full disk, ends the job, so that the batch never runs without its input before that is kept.
    """
    why = graph.log.skipped[entry.n]
    for name, (start, end) in entry.ranges.items():
        path = graph.home / f"skipped/{entry.n}/{name}"
        if storage.exists(path):
            continue
        try:
            snapshots.write(graph.sources[name].read(start, end), path, graph.log.epoch)
        except KitError as error:
            log.warning("batch %d: %s %s to %s cannot be kept (%s)", entry.n, name, start, end, error)
        else:
            log.warning("batch %d is skipped (%s): %s %s to %s is in %s", entry.n, why, name, start, end, path)
