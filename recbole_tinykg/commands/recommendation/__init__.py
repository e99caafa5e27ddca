"""``recbole-tinykg recommend``: the best items for users, from a checkpoint, and why.

``ranking`` scores and ranks, ``paths`` finds what connects an item to a user's history by the
attention that ``attention`` reads from KGAT, KGCN and KGNN-LS and ``ripples`` from RippleNet,
``output`` writes tables, CSV and JSON lines, and ``command`` reads the flags.
"""

from recbole_tinykg.commands.recommendation.command import run
from recbole_tinykg.commands.recommendation.knowledge import GraphPath, Step
from recbole_tinykg.commands.recommendation.ranking import (
    Recommendation,
    UserRecommendations,
    recommend,
)

__all__ = ["GraphPath", "Recommendation", "Step", "UserRecommendations", "recommend", "run"]
