"""The short form of `run_mutations.py`: every damage can still be made, and two are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from damages import DAMAGES, Damage
from run_mutations import (
    ROOT,
    CannotRunError,
    addresses,
    check_import,
    copy_tree,
    damaged,
    report,
    run_tests,
    try_damage,
)

BY_NAME = {damage.name: damage for damage in DAMAGES}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to damage."""
    return copy_tree(tmp_path_factory.mktemp("mutations").resolve() / "tree")


def test_names_are_unlike() -> None:
    """Damage: two damages of one name, of which --only and the report would know one."""
    assert len(BY_NAME) == len(DAMAGES)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_every_damage_can_be_made(damage: Damage) -> None:
    """Damage: code reworded so that a damage no longer finds its place; a test renamed that should notice one."""
    text = (ROOT / "medsegdiff" / damage.file).read_text()
    assert damaged(damage, text) != text
    assert addresses(damage.tests, ROOT)


def test_a_damage_is_noticed(tree: Path) -> None:
    """Damage: the installed package imported instead of the copy; a stale .pyc; a failure taken for a success."""
    check_import(tree)
    damage = BY_NAME["group_leak"]
    before = (tree / "medsegdiff" / damage.file).read_bytes()
    caught_by = try_damage(damage, tree).caught_by
    assert caught_by is not None
    assert caught_by.startswith(damage.tests[0] + "::test_")
    assert (tree / "medsegdiff" / damage.file).read_bytes() == before


def test_what_no_test_notices_is_reported(tree: Path) -> None:
    """Damage: every damage reported as noticed, because the tests fail in the copy for another reason."""
    harmless = dataclasses.replace(BY_NAME["dice_of_nothing"], new="float(there == found))")
    outcome = try_damage(harmless, tree)
    assert outcome.caught_by is None
    text = report([outcome], ["--only", harmless.name])
    assert "0 of 1 were noticed" in text
    assert "| **nothing** |" in text


@pytest.mark.parametrize("old", ["no such text", "def "])
def test_a_place_that_is_not_there_once_is_refused(old: str) -> None:
    """Damage: replacing nothing, and reporting for ever that the tests notice it (or not); replacing every place."""
    damage = dataclasses.replace(BY_NAME["dice_of_nothing"], old=old)
    with pytest.raises(CannotRunError, match="expected once"):
        damaged(damage, (ROOT / "medsegdiff" / damage.file).read_text())


def test_tests_that_do_not_exist_are_refused(tree: Path) -> None:
    """Damage: taking pytest's "nothing collected", or an import that fails, for a test that failed."""
    with pytest.raises(CannotRunError, match="there is no test_of_nothing"):
        addresses(["test_of_nothing"], tree)
    with pytest.raises(CannotRunError, match="ended with 4"):
        run_tests(tree, ["tests/test_of_nothing.py"])
