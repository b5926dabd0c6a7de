"""Deliberate damages to the code, each of which some test has to notice."""

from __future__ import annotations

from damages.damage import Damage
from damages.data import DATA
from damages.evaluation import EVALUATION
from damages.generating import GENERATING
from damages.mathematics import MATHEMATICS
from damages.networks import NETWORKS
from damages.protocol import PROTOCOL
from damages.training import TRAINING

__all__ = ["DAMAGES", "Damage"]

DAMAGES = (*MATHEMATICS, *NETWORKS, *TRAINING, *GENERATING, *DATA, *PROTOCOL, *EVALUATION)
