"""`recbole-tinykg plan`: will it fit? Predicts the memory of a training, without training.

* `command`: the flags, and the Python function `plan`;
* `memory`: the numbers, and the verdict;
* `steps`: the first step of each phase, as RecBole's trainers take it;
* `prediction`, `measurement`: the two ways to the numbers;
* `device_memory`: what the device has free;
* `tables`: what is printed.
"""

from recbole_tinykg.commands.plan.command import plan, run
from recbole_tinykg.commands.plan.memory import Memory, Plan, PlannedModel, StepMemory

__all__ = ["Memory", "Plan", "PlannedModel", "StepMemory", "plan", "run"]
