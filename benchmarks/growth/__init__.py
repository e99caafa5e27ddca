"""Growth with the graph: `run` measures each `point` in its process, `charts` draws the series."""
