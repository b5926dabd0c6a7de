"""Rows of scores to files and back, broken files, folders of finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medsegdiff.downstream.rows import PER_IMAGE_FILE, columns, read_rows, read_run, write_rows
from medsegdiff.engine.files import write_json
from medsegdiff.errors import UserError


@dataclass(frozen=True)
class Found:
    """A row with every type of field."""

    id: str
    score: float
    count: int
    sure: bool


ROWS = [
    Found("a", 0.1 + 0.2, 3, True),
    Found('b, "c"\r\nd \u00e4', 1e-300, -(10**18), False),
    Found("", 1 / 3, 0, True),
]


def test_round_trip(tmp_path: Path) -> None:
    """Quotes, line ends, every digit, False. Damage: numbers are rounded, "False" is read by bool(), or line ends are
    translated."""
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    assert read_rows(path, Found) == ROWS
    assert path.read_text().splitlines()[:2] == ["id,score,count,sure", "a,0.30000000000000004,3,True"]
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    """Damage: values are written by repr, which is np.float64(0.25)."""
    write_rows(tmp_path / "rows.csv", [Found("a", np.float64(0.25), 3, True)])
    assert read_rows(tmp_path / "rows.csv", Found) == [Found("a", 0.25, 3, True)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, value: float) -> None:
    """The old file stands. Damage: NaN is written, which `read_rows` refuses."""
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    with pytest.raises(ValueError, match=r"score of .* is not a finite number"):
        write_rows(path, [ROWS[0], Found("b", value, 1, True)])
    with pytest.raises(ValueError, match="no rows"):
        write_rows(path, [])
    assert read_rows(path, Found) == ROWS


HEAD = b"id,score,count,sure\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"rows\.csv: found FileNotFoundError"),
        (b"", "found an empty file; expected the columns id,score,count,sure"),
        (HEAD, "found no row"),
        (b"id,score,count\na,1,2\n", "found id,score,count; expected the columns"),
        (HEAD + b"a,1.0,3,True\nb,nan,3,True\n", "line 3: found ValueError: not a finite number"),
        (HEAD + b"a,inf,3,True\n", "line 2: .*not a finite number"),
        (HEAD + b"a,,3,True\n", "line 2: .*could not convert string to float"),
        (HEAD + b"a,1.0,3.5,True\n", "line 2: .*invalid literal for int"),
        (HEAD + b"a,1.0,3,yes\n", "line 2: found KeyError: 'yes'"),
        (HEAD + b"a,1.0,3,True\nb,1.0\n", "line 3: found ValueError: 2 values for 4 columns"),
        (HEAD + b'a,1.0,3,"Tr', "unexpected end of data"),
        (HEAD + b"\xff,1.0,3,True\n", "UnicodeDecodeError"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    """Each in one line that names file and line. Damage: the check of that damage is taken out."""
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_rows(path, Found)
    assert str(path) in caught.value.where


def test_columns() -> None:
    """Damage: columns are sorted by value, or booleans become text."""
    found = columns(ROWS)
    assert list(found) == ["id", "score", "count", "sure"]
    assert found["score"].tolist() == [0.1 + 0.2, 1e-300, 1 / 3]
    assert found["sure"].dtype == bool
    with pytest.raises(ValueError, match="no rows"):
        columns([])


REPORTED = {"config": {}, "img_size": 64, "test_digest": "d"}  # what every scores.json has, beside the ids


def finish(folder: Path, rows: list[Found], scores: object) -> Path:
    """A finished run."""
    folder.mkdir(parents=True)
    write_rows(folder / PER_IMAGE_FILE, rows)
    write_json(folder / "scores.json", scores)
    return folder


def test_one_run_and_several(tmp_path: Path) -> None:
    """Damage: the folders under "runs" are not looked at, or come in the order of their names."""
    rows = {seed: [Found(id, seed / 100, 0, True) for id in "ab"] for seed in (10, 9)}
    for seed, some in rows.items():
        finish(tmp_path / f"seed_{seed}", some, {**REPORTED, "test_ids": ["a", "b"], "val": seed})
    reported = {**REPORTED, "test_ids": ["b", "a"], "runs": ["seed_10", "seed_9"]}
    write_json(tmp_path / "scores.json", reported)
    assert read_run(tmp_path / "seed_9", Found) == ({**REPORTED, "test_ids": ["a", "b"], "val": 9}, [rows[9]])
    assert read_run(tmp_path, Found) == (reported, [rows[10], rows[9]])


@pytest.mark.parametrize("key", [*REPORTED, "test_ids"])
def test_scores_that_lack_what_a_comparison_needs(tmp_path: Path, key: str) -> None:
    """Not there, or of another type. Damage: it ends in a KeyError where the runs are compared."""
    reported = {**REPORTED, "test_ids": [row.id for row in ROWS]}
    folder = finish(tmp_path / "run", ROWS, reported)
    assert read_run(folder, Found)[1] == [ROWS]
    for scores in ({k: v for k, v in reported.items() if k != key}, {**reported, key: None}):
        write_json(folder / "scores.json", scores)
        with pytest.raises(UserError, match=rf"scores\.json: found no {key}; expected the scores of a finished run"):
            read_run(folder, Found)


def test_runs_that_are_not_there_or_do_not_fit(tmp_path: Path) -> None:
    """Damage: an unfinished folder, a scores.json of another kind, or seeds of different pictures are accepted."""
    with pytest.raises(UserError, match="found nothing"):
        read_run(tmp_path / "nowhere", Found)
    with pytest.raises(UserError, match=r"found no scores\.json"):
        read_run(tmp_path, Found)
    for scores in ([], {"runs": []}, {"runs": "seed_0"}, {"runs": [0]}):
        write_json(tmp_path / "scores.json", scores)
        with pytest.raises(UserError, match="no list of runs"):
            read_run(tmp_path, Found)
    finish(tmp_path / "seed_0", ROWS, {})
    finish(tmp_path / "seed_1", ROWS[1:], {})
    finish(tmp_path / "seed_2", [ROWS[0]] * 2, {})
    ids = [row.id for row in ROWS]
    for names, reported in ((["seed_0", "seed_1"], ids), (["seed_2"], [ids[0]] * 2), (["seed_0"], ids[1:])):
        write_json(tmp_path / "scores.json", {**REPORTED, "test_ids": reported, "runs": names})
        with pytest.raises(UserError, match="other or repeated test images") as caught:
            read_run(tmp_path, Found)
        assert caught.value.where == str(tmp_path / names[-1] / PER_IMAGE_FILE)
