"""Where the wait before the first step goes, and its memory: reading, splitting, building a model.

    python -m benchmarks.synthetic_data.synthetic --size amazon-book --output DIR
    python -m benchmarks.loading --dataset amazon-book-synthetic --data_path DIR

For each model, in a process of its own, with RecBole's defaults and reverse relations:

* files: RecBole reads, filters and renumbers the atomic files (`create_dataset`);
* loaders: it splits the interactions, and prepares samplers and loaders (`data_preparation`);
* model: the model's constructor, which builds its graph.

Seconds, and the most resident memory in each stage (Linux). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from time import perf_counter
from typing import Any

import torch
from recbole.utils import init_seed

from benchmarks.growth.point import peak_rss, reset_peak_rss
from benchmarks.processes import environment
from recbole_tinykg.config import Config
from recbole_tinykg.data import atomic_files

MODELS = "KGAT,TinyKGAT,KGCN,TinyKGCN,KGNNLS,TinyKGNNLS,KGIN,TinyKGIN,RippleNet,TinyRippleNet"
STAGES = ("files", "loaders", "model")


def main() -> None:
    """Measure each model in its process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="amazon-book-synthetic")
    parser.add_argument("--data_path", required=True, help="the folder above the data set's")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", action="store_true", help="measure one model in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(stages(args)))
        return
    rows = []
    for model in args.models.split(","):
        given = ["--dataset", args.dataset, "--data_path", args.data_path, "--models", model]
        command = [
            sys.executable,
            "-m",
            "benchmarks.loading",
            "--one",
            "--threads",
            str(args.threads),
            *given,
        ]
        output = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment()
        ).stdout
        rows.append({"name": model, **json.loads(output.splitlines()[-1])})
    print(table(rows))
    print(json.dumps({"torch": torch.__version__, "threads": args.threads, "rows": rows}))


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and resident peak of each stage."""
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    given = {"data_path": args.data_path, "gpu_id": "", "state": "ERROR", "kg_reverse_r": True}
    config = Config(args.models, args.dataset, config_dict=given)
    init_seed(config["seed"], config["reproducibility"])
    result: dict[str, Any] = {"start": {"seconds": 0.0, "rss_bytes": peak_rss()}}

    def stage(name: str, call: Any) -> Any:
        reset_peak_rss()
        start = perf_counter()
        value = call()
        result[name] = {"seconds": perf_counter() - start, "rss_bytes": peak_rss()}
        return value

    dataset = stage("files", lambda: atomic_files.create_dataset(config))
    loaders = stage("loaders", lambda: loaders.data_preparation(config, dataset))
    stage("model", lambda: config.model_class(config, loaders[0]._dataset))
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: seconds and gigabytes by stage."""
    lines = [
        "| model | files, s | loaders, s | model, s | all, s "
        "| files, GB | loaders, GB | model, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = [row[stage]["seconds"] for stage in STAGES]
        cells = [f"{s:.1f}" for s in (*seconds, sum(seconds))]
        cells += [f"{row[stage]['rss_bytes'] / 1e9:.2f}" for stage in STAGES]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
