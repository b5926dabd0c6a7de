"""The rules of the privacy audit: its measures and thresholds, in one place and with a version.

A verdict is worth something only where its rules were fixed before. So a version never changes: who changes a
threshold, the embedding or the decision (`decision.py`) adds a version to `VERSIONS`. Reports name the version, and
show the verdict of every earlier one beside that of the last.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AuditRules:
    """One version of the audit. Shares are from 0 to 1."""

    version: int
    # What is measured: nearest pictures by an embedding of this recipe (`embedding.py`), by fine detail, and from
    # version 2 on by features of a network made for photographs, which saw none of our data
    measures: tuple[str, ...] = ("embedding", "fine detail")
    embedding_recipe: int = 2  # cross-fitted halves of train, four deals, similarities averaged
    embedding_finds: float = 0.9  # share of altered copies of held-out pictures that the embedding has to find
    limit_percentile: float = 95  # of held-out -> train similarity, beyond which a picture counts as a copy
    planted: int = 60  # train pictures of which copies of every kind are planted
    alarm_percentile: float = 25  # of the similarity of altered copies, beyond which one picture alone is an alarm
    tail: float = 0.2  # share of held-out similarities that says how strangers' similarity falls off
    false_alarm: float = 0.05  # share of sets without copies in which some picture is taken for one
    # What is needed for it
    fewest_synthetic: int = 10  # pictures below which nothing is reported of neighbours
    fewest_real: int = 20  # pictures of train, and of held-out
    fewest_groups: int = 5  # an interval over few of them (all samples for one mask are one) says nothing
    finer: int = 10  # times as many resamples as elsewhere: ends of 200 wander by 0.01, and a verdict hangs on them
    # What is decided
    exact_found: float = 0.9  # share of planted exact copies that a measure has to find to be usable
    kinds_found: float = 0.8  # share of planted copies of a kind below which they may go unnoticed
    copying: float = 0.5  # share of pictures nearest to train without copying; surely above it: fail
    expected_beyond: float = 0.05  # share of pictures beyond the limit without copying; surely above it: fail
    allowed: float = 0.6  # largest share nearest to train that a pass has to exclude
    every_measure: bool = False  # whether a pass needs all of `measures`, or those that are usable


VERSIONS = (AuditRules(1), AuditRules(2, ("embedding", "fine detail", "perceptual features"), every_measure=True))
CURRENT = VERSIONS[-1]
