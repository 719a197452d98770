"""Globs match what Hadoop's globs match."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit.errors import UsageError
from sparkstream_kit.sources import _disks, _globs

NAMES = ["a.log", "b.log", "ab.log", "a.log.1", "[a].log", "a-1", "a,b", "{a}", "a*", "a?b", "a\\b", "x y", "é.log"]
FOLDERS = ["", "nginx", "apache2", "[prod]", "n.d"]
GLOBS = [
    *("*", "*.log", "a*", "?.log", "[ab].log", "[!a].log", "[a-b]*", "{a,b}.log", "{a,b}*", "a.log*", "\\[a\\].log"),
    *("\\{a\\}", "a\\*", "nginx/*", "{nginx,apache2}/*.log", "*/a.log", "[np]*/a*", "\\[prod\\]/*", "n?d/*", "a\\\\b"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for folder, name in itertools.product(FOLDERS, NAMES):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / name).write_text("a line\n")
    return root


def walked(root: Path, glob: str) -> list[str]:
    found = [found.path for found in _disks.LOCAL.walk(str(root), _globs.parse(glob))]
    assert len(found) == len(set(found))
    return sorted(str(Path(path).relative_to(root)) for path in found)


@pytest.mark.parametrize("glob", GLOBS)
def test_a_glob_matches_what_it_matches_in_hadoop(spark: SparkSession, tree: Path, glob: str) -> None:
    hadoop = spark._jvm.org.apache.hadoop.fs  # type: ignore[union-attr]
    pattern = hadoop.Path(f"file:{tree}/{glob}")
    statuses = pattern.getFileSystem(spark._jsc.hadoopConfiguration()).globStatus(pattern)
    expected = [str(s.getPath().toUri().getPath()) for s in statuses if s.isFile()]
    assert walked(tree, glob) == sorted(str(Path(path).relative_to(tree)) for path in expected)
    assert walked(tree, glob), "a glob that matches nothing proves nothing"


@pytest.mark.parametrize("glob", ["**/*.log", "**", "nginx/**", "**/a.log", "**/[[]prod]/**/a*"])
def test_two_stars_match_any_depth_as_in_pathlib(tree: Path, glob: str) -> None:
    found = {p for p in tree.glob(glob.replace("**/a*", "a*")) if p.is_file()}
    if glob.endswith("**"):
        found = {p for p in tree.glob(f"{glob}/*") if p.is_file()}
    assert walked(tree, glob.replace("[[]", "\\[")) == sorted(str(p.relative_to(tree)) for p in found)


@pytest.mark.parametrize("glob", ["{a", "[a", "", "/", "{a,{b}"])
def test_a_glob_that_is_not_one_is_refused(glob: str) -> None:
    with pytest.raises(UsageError, match="got the glob .*, expected"):
        _globs.parse(glob)


def test_a_link_back_up_is_not_followed_forever(tree: Path) -> None:
    (tree / "nginx" / "up").symlink_to(tree)
    try:
        names = walked(tree, "**/a.log")
        assert names.count("nginx/a.log") == 1
        assert not any(name.startswith("nginx/up/nginx/up") for name in names)
    finally:
        (tree / "nginx" / "up").unlink()
