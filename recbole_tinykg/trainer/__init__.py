"""RecBole's trainers with measured steps, timed phases, safe checkpoints and faster loops.

* `trainer`: `TinyTrainer`, which stands between RecBole's trainer of a model and its loop;
* `loop`: one pass over the batches of a twin; `step`: one step of it; `cuda_graphs`: a step as one
  launch, by `capture`; `optimizers`: Adam in one kernel;
* `phases`: the phases of an epoch, their seconds and their bytes;
* `saving`: the checkpoints of a run;
* `bit_budget`: bits chosen under `compress_budget`;
* `compressed_loss`: `compressed_saves` around a model's losses;
* `collector`: the best items of an evaluation;
* `tensorboard`, `progress`: what users see of a run.
"""

from recbole_tinykg.trainer.trainer import TinyTrainer, get_trainer, trainer_class

__all__ = ["TinyTrainer", "get_trainer", "trainer_class"]
