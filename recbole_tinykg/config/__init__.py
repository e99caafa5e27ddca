"""RecBole's `Config` with the `compress_*` keys, checked before any data is read.

* `config`: the layers of parameters and their order;
* `parameters`: `--key=value` arguments, literals and YAML files;
* `own_keys`: checks of our keys; `recbole_keys`: checks of RecBole's.
"""

from recbole_tinykg.config.config import (
    Config,
    load_properties,
    plain_parameters,
    properties,
    read_files,
)

__all__ = ["Config", "load_properties", "plain_parameters", "properties", "read_files"]
