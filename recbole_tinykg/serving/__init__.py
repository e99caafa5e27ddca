"""Uses of a trained model: the best items for users, and the paths that lead to them.

* `ranking`: `recommend` scores and ranks from a checkpoint; `arguments`: users and splits by name;
* `item_file`: a field of the `.item` file, to show with the items;
* `paths/`: how an item is connected to a user's history, by the model's attention.
"""

from recbole_tinykg.serving.paths.knowledge import GraphPath, Step
from recbole_tinykg.serving.ranking import Recommendation, UserRecommendations, recommend

__all__ = ["GraphPath", "Recommendation", "Step", "UserRecommendations", "recommend"]
