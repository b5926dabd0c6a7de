"""What the privacy audit decides from what it found; part of each of its versions (`rules.py`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from medsegdiff.evaluation.privacy.audit import Audit
from medsegdiff.evaluation.privacy.leaks import Leaks
from medsegdiff.evaluation.privacy.learnt import Learnt
from medsegdiff.evaluation.privacy.neighbours import Statistics
from medsegdiff.evaluation.privacy.planted import KINDS
from medsegdiff.evaluation.privacy.rules import AuditRules
from medsegdiff.evaluation.section import Verdict

OPEN: Literal["too few pictures to decide"] = "too few pictures to decide"


def outcome(rules: AuditRules, found: Statistics) -> str:
    """By one measure alone: "fail", "pass" or "too few pictures to decide".

    Pictures beyond the limit towards train count where there are not as many beyond it towards held-out ones: a
    set of nothing but typical pictures is near to everything without being a copy of anything.
    """
    beyond = found.beyond_95.low > rules.expected_beyond and found.excess.low > 0
    if found.nearest_to_train.low > rules.copying or beyond:
        return "fail"
    return "pass" if found.nearest_to_train.high <= rules.allowed else OPEN


def is_usable(rules: AuditRules, found: Audit) -> bool:
    """Whether a measure found its controls: one that misses exact copies is blind."""
    return found.planted["exact"].detected >= rules.exact_found


def missed_kinds(rules: AuditRules, audits: Collection[Audit]) -> list[str]:
    """Kinds of planted copies of which no measure finds as many as it should: one alarm is enough to fail a set."""
    return [k for k in KINDS if max(found.planted[k].detected for found in audits) < rules.kinds_found]


def decide(rules: AuditRules, total: int, leaks: Leaks, audits: Mapping[str, Audit], learnt: Learnt | None) -> Verdict:
    """What may be acted on, of `total` synthetic pictures; copies by content are reported whatever else fails."""
    exact = sum(name is not None for name in leaks.exact)
    if exact > total / 2:
        found = f"The synthetic set is made of real pictures: {exact} of {total} are real to the pixel."
        return Verdict("fail", found)
    if leaks.copies:
        return Verdict("fail", f"{leaks.copies} of {total} synthetic images are copies of real ones.")
    usable = {name: found for name, found in audits.items() if is_usable(rules, found)}
    if not usable:
        why = "planted copies were not found" if audits else "too few pictures to compare"
        return Verdict(OPEN, f"Whether patients are copied is open: {why}.")
    alarms = [f"{found.unmistakable} by {name}" for name, found in usable.items() if found.unmistakable]
    if alarms:
        what = "synthetic images are as alike to a train image as altered copies of one are"
        return Verdict("fail", f"Look at the nearest pairs: {' and '.join(alarms)}: {what}.")
    return _by_shares(rules, leaks, usable, learnt)


def _by_shares(rules: AuditRules, leaks: Leaks, usable: Mapping[str, Audit], learnt: Learnt | None) -> Verdict:
    outcomes = {name: outcome(rules, found.statistics) for name, found in usable.items()}
    figures = "; ".join(
        f"{name}: nearest to train {found.statistics.nearest_to_train}, beyond the limit {found.statistics.beyond_95}"
        for name, found in usable.items()
    )
    if "fail" in outcomes.values():
        by = " and ".join(name for name, outcome in outcomes.items() if outcome == "fail")
        what = f"Synthetic images lie nearer to learnt ones than chance explains, by {by} ({figures})."
        return Verdict("fail", what)
    doubts = []
    if rules.every_measure and (absent := [name for name in rules.measures if name not in usable]):
        doubts.append(f"there is no usable comparison by {' and '.join(absent)}")
    if set(outcomes.values()) != {"pass"}:
        doubts.append(f"a nearest-to-train share above {rules.allowed} is not excluded")
    if missed := missed_kinds(rules, usable.values()):
        doubts.append(f"copies of these kinds may have gone unnoticed: {', '.join(missed)}")
    if learnt is not None and learnt.absent:
        doubts.append(f"{learnt.absent} of {learnt.total} images that the generator learnt are not in train")
    doubts += _blind_spots(leaks, usable)
    if not doubts:
        return Verdict("pass", f"No sign of copied patients ({figures}).")
    return Verdict(OPEN, f"No sign of copied patients, but {'; and '.join(doubts)} ({figures}).")


def _blind_spots(leaks: Leaks, usable: Mapping[str, Audit]) -> list[str]:
    """What keeps a few copies among many from being seen."""
    spots = []
    if leaks.near_duplicates or leaks.bits < 0:
        spots.append("held-out images show what train images show, so that copies look like chance")
    if all(found.unmistakable is None for found in usable.values()):
        spots.append("some held-out images are as alike to train as copies are, so that a few copies would not show")
    return spots
