"""The dashboards in conf/grafana are what their generator makes, and nothing in them is cut off or set twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conf.grafana import dashboards

FILES = {path.stem: text for path, text in dashboards.files().items()}


def panels(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(FILES[name])["panels"]
    return found


def test_the_dashboards_are_up_to_date() -> None:
    written = {path.stem: path.read_text() for path in dashboards.FOLDER.glob("*.json")}
    assert written == FILES, "run: python conf/grafana/dashboards.py"


def test_prometheus_and_graphite_have_the_same_panels() -> None:
    assert [panel["title"] for panel in panels("prometheus")] == [panel["title"] for panel in panels("graphite")]


@pytest.mark.parametrize("name", FILES)
def test_every_panel_asks_something_and_covers_no_other(name: str) -> None:
    covered: set[tuple[int, int]] = set()
    for panel in panels(name):
        assert panel["targets"], panel["title"]
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & covered and max(x for x, _ in cells) < 24, panel["title"]
        covered |= cells
    assert len({panel["id"] for panel in panels(name)}) == len({panel["title"] for panel in panels(name)})
