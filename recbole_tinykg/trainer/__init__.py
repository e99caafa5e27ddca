"""RecBole's trainers with measured steps, timed phases, safe checkpoints and faster loops.

* `trainer`: `TinyTrainer`, which stands between RecBole's trainer of a model and its loop;
* `loop`: one pass over the batches of a twin; `optimizers`: Adam in one kernel;
* `phases`: what an epoch consists of, and the seconds of each part;
* `bit_budget`: bits chosen under `compress_budget`;
* `compressed_loss`: `compressed_saves` around a model's losses;
* `collector`: the best items of an evaluation;
* `tensorboard`, `progress`: what is shown.
"""

from recbole_tinykg.trainer.trainer import TinyTrainer, get_trainer, trainer_class

__all__ = ["TinyTrainer", "get_trainer", "trainer_class"]
