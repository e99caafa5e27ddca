"""A column of the data set's `.item` file, such as titles, to go with recommended items.

It is read apart from the data set, which would number the items differently with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from recbole_tinykg.errors import ConfigurationError

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset

    from recbole_tinykg.config import Config


def read_item_field(config: Config, dataset: Dataset, field: str) -> dict[str, str]:
    """Return the texts of a column by item token.

    Raises:
        ConfigurationError: There is no such file, or no such column in it.
    """
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not path.is_file():
        raise ConfigurationError(f"item_field needs the file {path}, and it is not there")
    table = pd.read_csv(
        path,
        delimiter=config["field_separator"],
        encoding=config["encoding"],
        dtype=str,
        keep_default_na=False,
        engine="python",
    )
    table.columns = [str(name).partition(":")[0] for name in table.columns]
    for name in (dataset.iid_field, field):
        if name not in table.columns:
            raise ConfigurationError(
                f"item_field must be a column of {path}; got {name!r}, "
                f"and there are {', '.join(table.columns)}"
            )
    return dict(zip(table[dataset.iid_field], table[field], strict=True))
