"""Figures as a file of JSON."""

import json
from pathlib import Path
from typing import Any


def write_json(document: Any, path: Path) -> Path:
    """Write a document as JSON, which has no NaN and no infinity: both are written as null."""
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
    path.write_text(json.dumps(finite, allow_nan=False) + "\n", encoding="utf-8")
    return path
