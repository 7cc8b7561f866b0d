"""What a champion is compared with for as long as it decides: the file `reference.json` beside its model.

Made at training from the rows that the model was tested on and had not seen, and checksummed in its card, so
that whoever has the model has it too.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from training.drift import Column, type_of_columns
from training.performance import Standard

FILE = "reference.json"


@dataclass(frozen=True)
class Reference:
    """How features and scores were distributed, and what the model showed."""

    columns: type_of_columns
    standard: Standard

    def file(self) -> Mapping[str, bytes]:
        """The file by its name; the same reference gives the same bytes."""
        standard = asdict(self.standard)
        standard["figures"] = {
            name: value for name, value in standard["figures"].items() if math.isfinite(value)
        }
        columns = {name: column.as_json() for name, column in self.columns.items()}
        text = json.dumps({"standard": standard, "columns": columns}, allow_nan=False)
        return {FILE: text.encode()}


def read(folder: Path) -> Reference | None:
    """The reference of a model's folder, whose checksums `card.read` looks at; None of an older model."""
    path = folder / FILE
    if not path.exists():
        return None
    values = json.loads(path.read_text("utf-8"))
    columns = {name: Column.from_json(column) for name, column in values["columns"].items()}
    return Reference(columns, Standard(**values["standard"]))
