"""Traces of a job for OpenTelemetry."""

from __future__ import annotations

from opentelemetry.trace import Status, StatusCode, Tracer, get_tracer, set_span_in_context

from .events import BatchDone, Event, JobFailed, Listener

NANOSECONDS = 1_000_000_000


def spans(tracer: Tracer | None = None) -> Listener:
    """A listener that makes a span of each batch, with its phases as children, for `ss.listen`.

    >>> import sparkstream_kit as ss
    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    >>> from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    >>> from sparkstream_kit.testing import run_batches
    >>> exporter, provider = InMemorySpanExporter(), TracerProvider()
    >>> provider.add_span_processor(SimpleSpanProcessor(exporter))
    >>> def build(lines):
    ...     ss.listen(lines.context(), ss.spans(provider.get_tracer("doc")))
    ...     return ss.FrameStream.of(lines).count()
    >>> _ = run_batches(build, [["a"]])
    >>> [span.name for span in exporter.get_finished_spans()]
    ['plan', 'prepare', 'outputs', 'states', 'snapshots', 'batch']

    Without a tracer it takes the one of the provider that the process has set. A span named batch has the attributes
    sparkstream.batch (its number), .records, .bytes, .rejected, .delay_seconds and .retries, as far as these are known.
    The phases follow each other as they do in the batch; pauses before retries are after them. A job that fails makes
    a span named job with the status ERROR.

    Guarantee: at most once. Export in a thread of its own, with the BatchSpanProcessor, as the next batch waits.

    Raises MissingLibrary without the extra otel.

    Cost: grows with nothing: six spans for each batch.
    """
    chosen = tracer or get_tracer("sparkstream_kit")

    def trace(event: Event) -> None:
        if isinstance(event, BatchDone):
            _trace_batch(chosen, event)
        elif isinstance(event, JobFailed):
            span = chosen.start_span("job")
            span.set_status(Status(StatusCode.ERROR, event.error))
            span.end()

    return trace


def _trace_batch(tracer: Tracer, batch: BatchDone) -> None:
    at = batch.began
    figures = {
        "batch": batch.n,
        "records": batch.records,
        "bytes": batch.bytes,
        "rejected": batch.rejected,
        "delay_seconds": batch.delay,
        "retries": sum(batch.retries.values()),
    }
    known = {f"sparkstream.{name}": value for name, value in figures.items() if value is not None}
    span = tracer.start_span("batch", start_time=round(at * NANOSECONDS), attributes=known)
    for phase, seconds in batch.phases.items():
        child = tracer.start_span(phase, set_span_in_context(span), start_time=round(at * NANOSECONDS))
        at += seconds
        child.end(round(at * NANOSECONDS))
    span.end(round(max(at, batch.ended) * NANOSECONDS))
