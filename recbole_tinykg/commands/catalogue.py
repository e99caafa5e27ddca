"""What the command line offers: each command's module, its own flags, and its help.

Flags belong to the command and never reach RecBole's configuration; every other `--key=value`
is a parameter of RecBole's or ours. Nothing here imports a command: `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: `recbole_tinykg.commands.<module>.run(flags, parameters)`.

    Attributes:
        module: Module under `recbole_tinykg.commands`, imported when the command is asked for.
        flags: Its own flags that take a value, `--name=value`.
        help: What `--help` prints; fits a screen of 24 lines of 80 characters.
        switches: Its own flags that may stand alone: `--name` is `--name=True`.
    """

    module: str
    flags: tuple[str, ...]
    help: str
    switches: tuple[str, ...] = ()


OVERVIEW = """\
usage: recbole-tinykg [COMMAND] [--key=value ...]

Trains RecBole's knowledge-aware recommenders in a fraction of the memory.

  train      (default) trains a model; reports accuracy, memory and time
  evaluate   prints validation and test metrics of a checkpoint
  recommend  the best items for users, from a checkpoint, and why
  plan       will it fit? predicts memory; picks bits under a memory budget
  compare    stock against Tiny at several bits and seeds, with a paired test
  tune       searches parameters and bits with Ray Tune
  convert    rewrites a checkpoint that RecBole saved

recbole-tinykg COMMAND --help tells more. Parameters are RecBole's, and ours:
  --model=TinyKGAT --dataset=ml-100k --config_files="A.yaml B.yaml"
  --compress_bits=2 --learning_rate=1e-3 --layers=[64,32,16] ...
"""

COMMANDS = {
    "train": Command(
        "train",
        ("model", "dataset", "config_files", "model_list", "resume"),
        """\
usage: recbole-tinykg [train] [--key=value ...]

Writes saved/<run>.pth (best epoch), <run>-last.pth and <run>.json.

  --model=TinyKGAT        a twin, or any model of RecBole's such as KGAT
  --model_list=A,B        several models, one after another, in one table
  --dataset=ml-100k       comes with RecBole; others are folders in --data_path
  --config_files="A B"    YAML files of parameters; arguments win over them
  --compress_bits=2       bits per kept activation: 1, 2, 4, 8; 32: uncompressed
  --compress_budget=2MiB  what a step may keep; the bits are chosen per map
  --compress_rounding=... stochastic (unbiased) or nearest
  --compress_seed=...     seed of compression noise and dropout; default: --seed
  --compress_require_native=True    stop if the compiled kernels are missing
  --cuda_graphs=False     on a GPU, twins' steps are launched kernel by kernel
  --detect_anomaly=False  stock models train without autograd's anomaly mode
  --resume=FILE           continue a run; other arguments change its parameters
  --epochs=5 --layers=[64,32,16] ...   every other parameter of RecBole's
""",
    ),
    "evaluate": Command(
        "evaluate",
        ("checkpoint",),
        """\
usage: recbole-tinykg evaluate --checkpoint=FILE [--key=value ...]

Prints validation and test metrics of a checkpoint written by train.

  --checkpoint=FILE       saved/<run>.pth
  --topk=[10,20] ...      parameters that win over the checkpoint's
""",
    ),
    "compare": Command(
        "compare",
        ("model", "model_list", "dataset", "config_files", "bits", "seeds", "output"),
        """\
usage: recbole-tinykg compare [--key=value ...]

Trains a stock model and its twin at several bits on the same splits and seeds,
each run in a process of its own; tests the paired differences. Interrupted, or
asked for more bits or seeds, the same command goes on where it was.

  --model=TinyKGAT        a twin; it is compared with the model it replaces
  --model_list=A,B        several twins
  --dataset=ml-100k       as for train, and so are
  --config_files="A B"    YAML files of parameters
  --bits=32,8,4,2,1       bits of the twins; default: 2
  --seeds=5               the configuration's seed and the next four (default),
                          or a list: --seeds=2020,7
  --output=DIR            default: comparisons/<models>-<dataset>
  --keep_checkpoints      finished runs keep their checkpoints in DIR/runs
  --epochs=20 ...         every other parameter, for all runs; --metrics and
                          --topk choose what is compared
""",
        switches=("keep_checkpoints",),
    ),
    "recommend": Command(
        "recommend",
        (
            "checkpoint",
            "users",
            "users_file",
            "k",
            "paths",
            "seen",
            "item_field",
            "format",
            "output",
        ),
        """\
usage: recbole-tinykg recommend --checkpoint=FILE [--key=value ...]

The best items for users, best first, by a checkpoint written by train.

  --checkpoint=FILE         saved/<run>.pth
  --users=196,186           tokens as in the data; default: all users
  --users_file=FILE         one token per line
  --k=10                    items for each user
  --paths=2                 paths through the knowledge graph, at most, that
                            connect each item to the user's training items; by
                            the attention of KGAT, KGCN, KGNNLS or RippleNet
  --seen=all                items left out: those of the splits train,valid,test
                            (some or all of the three), or none
  --item_field=movie_title  a column of the data set's .item file
  --format=table            or csv, or json (a line per user)
  --output=FILE             instead of the terminal; .csv, .json and .jsonl say
                            the format, too
  --data_path=... ...       parameters that win over the checkpoint's
""",
    ),
    "plan": Command(
        "plan",
        ("model", "model_list", "dataset", "config_files", "bits", "output"),
        """\
usage: recbole-tinykg plan [--key=value ...]

Will it fit? Predicts the memory of a training, without training: what stays
between steps, what a step keeps for backward, and the most it allocates; for
the stock model and for its twin at each number of bits, on this device.

  --model=TinyKGAT        a twin, or any model of RecBole's such as KGAT
  --model_list=A,B        several models, in one table
  --dataset=ml-100k       comes with RecBole; others are folders in --data_path
  --config_files="A B"    YAML files of parameters; arguments win over them
  --bits=32,8,4,2,1       bits per kept activation to plan the twin at
  --compress_budget=2MiB  also the bits per map that fit what a step may keep
  --measure               runs one real step of each too, and compares
  --output=FILE           writes all numbers as JSON
  --layers=[64,32,16] --train_batch_size=4096 ...   RecBole's parameters
""",
        ("measure",),
    ),
    "convert": Command(
        "convert",
        ("checkpoint", "output", "model"),
        """\
usage: recbole-tinykg convert --checkpoint=FILE --output=FILE [--key=value ...]

Rewrites a checkpoint that RecBole saved. It is a pickle, and opening a pickle
runs whatever code is in it: convert only files you trust.

  --checkpoint=FILE       what RecBole saved
  --output=FILE           what to write
  --model=TinyKGAT        what to make of it; default: the twin, if there is one
  --data_path=... ...     parameters that win over the checkpoint's
""",
    ),
    "tune": Command(
        "tune",
        (
            *("model", "dataset", "config_files", "search", "trials", "scheduler", "searcher"),
            *("objectives", "cpus", "gpus", "concurrent", "address", "output", "tune_seed"),
        ),
        """\
usage: recbole-tinykg tune [--key=value ...]

Searches parameters and bits with Ray Tune, by the validation metric; trial 0 is
the default. Parameters given as --key=value are the same for all trials.

  --model=TinyKGAT --dataset=ml-100k --config_files="A B"  as in train
  --search=FILE           what to search; default: the file that comes with the
                          model. YAML, or RecBole's hyper.test (docs/tune.md)
  --trials=8              how many, with the default configuration
  --scheduler=asha        stops trials that fall behind; none: does not
  --searcher=random       or optuna (learns from earlier trials), or grid
  --objectives=valid      or several of valid,saved,peak,seconds: Pareto front
  --cpus=1 --gpus=0       of one trial; fractions share a device
  --concurrent=2          most trials at a time; default: as many as fit
  --address=HOST:PORT     a running Ray cluster, or auto; default: its own
  --output=DIR            trials, tables, best.yaml; tune/<model>-<dataset>
  --continue              goes on with the search in --output
  --tune_seed=...         seed of the searcher; default: --seed
  --epochs=10 ...         parameters of RecBole's and ours
""",
        ("continue",),
    ),
}
