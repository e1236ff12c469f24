"""Notebooks as pages: a local Sphinx extension, and the command that runs them.

A page shows a notebook as the Markdown of other pages: code, and below it what it printed or drew.
Run this after a change of a notebook, with nbclient, ipykernel and the extras `cli` and `plot`
installed. It writes the outputs into the notebook:

    python docs/notebooks.py
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

DOCS = Path(__file__).parent


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the parser."""
    app.add_source_suffix(".ipynb", "ipynb")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True}


class NotebookParser(MystParser):
    """Reads a notebook as Markdown."""

    supported = ("ipynb",)  # type: ignore[misc]  # docutils has it as a variable of instances

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Reads the cells."""
        super().parse(markdown(json.loads(inputstring)), document)


def markdown(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown."""
    return "\n\n".join(part for cell in notebook["cells"] for part in parts(cell))


def parts(cell: dict[str, Any]) -> Iterator[str]:
    """A cell as Markdown: a file, a command or Python, and the outputs."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
    elif found := re.fullmatch(r"%%writefile (\S+)\.(\w+)\n(.*)", source, re.DOTALL):
        name, language, text = found.groups()
        yield f"```{language}\n# {name}.{language}\n{text}\n```"
    elif source.startswith("!"):
        yield f"```console\n$ {source[1:]}\n{''.join(texts(cell))}```"
    else:
        code = re.sub(r"(?m)^%.*\n+", "", source)  # magic
        yield f"```python\n{code}\n```"
        for printed in texts(cell):
            yield f"```text\n{printed}```"
        for output in cell["outputs"]:
            if picture := output.get("data", {}).get("image/png"):
                width = output["metadata"]["image/png"]["width"]
                yield f'<img src="data:image/png;base64,{picture.strip()}" width="{width}">'


def texts(cell: dict[str, Any]) -> list[str]:
    """What a cell printed."""
    printed = [output for output in cell["outputs"] if output["output_type"] == "stream"]
    return ["".join(output["text"]) for output in printed]


def execute(path: Path) -> dict[str, Any]:
    """Runs a notebook in an empty folder. An error in a cell is raised."""
    import nbformat  # noqa: PLC0415  # the pages are built without
    from nbclient import NotebookClient  # noqa: PLC0415

    plain = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "72", "OMP_NUM_THREADS": "1"}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=None, record_timing=False, coalesce_streams=True)
        client.resources = {"metadata": {"path": folder}}
        client.execute(env={**os.environ, **plain, "PATH": programs})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = re.sub(r"\r|\x1b\[[\d;]*m", "", output["text"])  # bold
    run: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return run


def main() -> None:
    """Run every notebook, and write its outputs."""
    for path in sorted(DOCS.glob("*.ipynb")):
        text = json.dumps(execute(path), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main()
