"""Lines and bars as pictures, drawn by matplotlib without its global state."""

from __future__ import annotations

import io
import warnings
from datetime import datetime, timedelta, timezone
from typing import Any

from matplotlib.figure import Figure

STROKES = (
    ("#0072b2", "-"),
    ("#d55e00", "--"),
    ("#008a64", "-."),
    ("#a8527f", ":"),
    ("#1b2129", "-"),
    ("#9a6a00", "--"),
    ("#56b4e9", "-."),
    ("#e69f00", ":"),
)
"""Colours that the colour-blind can tell apart too, since neighbours also differ in their dashes."""

warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a label may be in any script

LONGEST = 40
"""Characters of a label."""

FARTHEST = 500 * 365 * 24 * 3600
"""Seconds from 1970 within which times are drawn: calendars end at the year 9999, and data may have later dates."""

PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}
"""Labels are data: a $ in them starts no formula, and TeX never sees them."""


def chart(panel: dict[str, Any], caption: str) -> bytes:
    """A panel of lines or bars, as `Panel.with_rows` makes it, as a PNG."""
    bars = panel.get("bars", [])
    figure = Figure(figsize=(7.5, max(2.8, 0.8 + 0.24 * len(bars))), dpi=100, layout="constrained")
    axes: Any = figure.subplots()  # its types know neither times nor settings of labels
    axes.set_title(_brief(caption, 2 * LONGEST), fontsize="medium", loc="left", **PLAIN)
    if panel["show"] == "bar":
        _bars(axes, bars, panel["value"])
    else:
        _lines(axes, panel["x"], panel["lines"])
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _bars(axes: Any, bars: list[dict[str, Any]], value: str) -> None:
    places = range(len(bars))
    axes.barh(places, [bar["value"] or 0 for bar in bars], color=STROKES[0][0])
    axes.set_yticks(places, [_brief(bar["label"]) for bar in bars], **PLAIN)
    axes.set_xlabel(_brief(value), **PLAIN)
    axes.invert_yaxis()  # the first row on top, as in a table


def _lines(axes: Any, seconds: list[float], lines: list[dict[str, Any]]) -> None:
    shown = [i for i, time in enumerate(seconds) if abs(time) < FARTHEST]
    times = [datetime.fromtimestamp(seconds[i], timezone.utc) for i in shown]
    nan = float("nan")
    drawn = [
        axes.plot(
            times, [nan if (y := line["values"][i]) is None else y for i in shown], dashes, color=color, marker="."
        )[0]
        for line, (color, dashes) in zip(lines, STROKES, strict=False)
    ]
    axes.xaxis_date(timezone.utc)
    axes.set_xlabel("UTC")
    if len(times) == 1:  # an axis of two minutes, not of years
        axes.set_xlim(times[0] - timedelta(minutes=1), times[0] + timedelta(minutes=1))
    if drawn:
        legend = axes.legend(drawn, [""] * len(drawn), loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        for text, line in zip(legend.get_texts(), lines, strict=False):
            text.update({**PLAIN, "text": _brief(line["label"])})


def _brief(label: str, longest: int = LONGEST) -> str:
    return label if len(label) <= longest else f"{label[: longest - 1]}…"
