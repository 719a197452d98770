"""Batches that an operator set aside with `sparkstream skip`: they run without their input, which is kept."""

from __future__ import annotations

import logging

from ..bridge import jvm
from ..errors import KitError
from ..recovery import snapshots, storage
from ..recovery.offset_log import Entry
from .graph import Graph

log = logging.getLogger(__name__)


def set_aside(graph: Graph, entry: Entry) -> None:
    """Write the rows of each source to `skipped/<n>/<source>` in the home, as Parquet, before the batch runs without.

    What is lost, damaged, or cannot be read because of what is in it, is left out, with a warning: the batch may have
    failed for that reason. Any other error, such as a full disk, ends the job, so that the batch never runs without its
    input before that is kept.
    """
    why, folder, epoch = graph.log.skipped[entry.n], graph.home / f"skipped/{entry.n}", graph.log.epoch
    storage.make_directory(folder)  # by which `sparkstream status` knows of the batch, whether or not it can be kept
    for name, (start, end) in entry.ranges.items():
        path = f"{folder}/{name}"
        if storage.exists(path):
            continue
        try:
            snapshots.write(graph.sources[name].read(start, end), path, epoch)
        except Exception as error:
            if not isinstance(error, KitError) and not jvm.is_caused_by_data(error):
                raise
            log.warning(
                "batch %d is skipped (%s): %s %s to %s cannot be kept (%s)",
                *(entry.n, why, name, start, end, jvm.reason(error)),
            )
        else:
            log.warning("batch %d is skipped (%s): %s %s to %s is in %s", entry.n, why, name, start, end, path)
    for left in storage.abandoned(folder, epoch + 1):  # of this start, too
        storage.delete(f"{folder}/{left}")
