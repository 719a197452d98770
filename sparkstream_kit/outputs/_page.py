"""Results on the live page: as a table, a line or bars."""

from __future__ import annotations

from pyspark.sql import DataFrame

from ..contracts import Batch
from ..engine.graph import Output, add_named
from ..errors import UsageError
from ..frames import FrameStream
from ..page.model import Page
from ._panels import MOST_ROWS, Panel, Show


def page(
    stream: FrameStream,
    *,
    name: str = "page",
    show: Show = "table",
    rows: int = 20,
    by: str = "",
    value: str = "",
    x: str = "",
) -> None:
    """Show the rows of each batch on the live page of the job, which `ss.serve_page` or --page serves.

    table    the first `rows` rows of the newest batch
    latest   the newest `rows` rows, of whichever batch: for alerts, and what is rare; so are rejected lines shown
    bar      a bar for each of the first `rows` rows: the column `value`, named by the column `by`
    line     over time, a line for each value of the column `by` with the column `value`; without `by`, one for each
             column with numbers of the first row. The 8 largest lines are drawn, each with its last 300 points. `x` is
             a column with times for streams by event time; without it a point is at the recorded time of its batch

    Unless they are named, `value` is the first column with numbers that is not `by`, and `by` the first column of a
    bar, and of a line the first that has neither numbers nor times.

    Guarantee: at least once, and nothing lasts: after a restart a result is shown with its next batch. Text is shown as
    text, whatever is in it, up to 500 characters; control characters are written as repr does. Times are in UTC. Of a
    table there are 50 columns and 200,000 characters at most. Of a line 1,000 rows of a batch are read, the largest, or
    with `x` the latest, and what is beyond the 100 largest lines is forgotten.

    Raises UsageError if the job has no page, for columns that the stream does not have or that have no numbers, and for
    `rows` beyond 1000.

    Cost: grows with `rows`: a Spark job of its own for each batch.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(lines):
    ...     ss.serve_page(lines.context(), "127.0.0.1:0")
    ...     words = ss.FrameStream.of(lines).update_state_by_key("value", {"n": ss.aggregates.count()})
    ...     ss.outputs.page(words, name="words", show="line")
    ...     return words
    >>> run_batches(build, [["a", "b"]])
    [[Row(value='a', n=1), Row(value='b', n=1)]]
    """
    if not 1 <= rows <= MOST_ROWS:
        raise UsageError(f"got rows={rows} for the page, expected 1 to {MOST_ROWS}")
    shared = stream.graph.shared.get("page")
    if shared is None:
        raise UsageError(
            "the output page: needs a page: start the job with --page 8080, or call ss.serve_page in build"
        )
    assert isinstance(shared, Page)
    output_name = f"page:{name}"
    panel = Panel(output_name, name, "latest" if stream.rejects and show == "table" else show, rows, by, value, x)

    def write(frame: DataFrame, batch: Batch) -> int | None:
        most = panel.rows_of_batch
        found = panel.first(frame).limit(most + 1).collect()
        shared.show(panel.with_rows(frame.schema, [*map(list, found)], batch))
        if not stream.rejects:  # counting costs a job; what is rejected is counted for the health of the job
            return None
        return len(found) if len(found) <= most else frame.count()

    def check(frame: DataFrame, batch: Batch) -> None:
        panel.columns(frame.schema)

    shared.add_panel(name, panel.show)
    output = Output(stream.compute, write, check, lasting=False, rejects=stream.rejects)
    add_named("outputs", stream.graph.outputs, output_name, output)
