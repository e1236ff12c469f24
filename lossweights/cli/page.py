"""The weights of configs as a picture, and as a page that needs no other file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from html import escape

from lossweights.config.curves import Curves
from lossweights.config.loss_config import LossConfig

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }
svg { height: auto; width: 100% }
div { overflow-x: auto }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border-bottom: 1px solid #ddd; padding: .3em .8em; text-align: right }
th:first-child, td:first-child { text-align: left }"""


def picture(configs: Mapping[str, LossConfig], file_format: str) -> bytes:
    """The curves of configs as the content of a file.

    Args:
        configs: By name.
        file_format: `png` or `svg`.

    Raises:
        ImportError: Without matplotlib (extra `plot`).
        HorizonError: Where a schedule needs more of the horizon than is known.
    """
    from lossweights.analysis.plot import config as drawn  # noqa: PLC0415  # an extra

    written = io.BytesIO()
    drawn(configs).savefig(written, format=file_format, dpi=150, bbox_inches="tight")
    return written.getvalue()


def page(configs: Mapping[str, LossConfig]) -> str:
    """A self-contained HTML page: the curves, and a table a config.

    Raises:
        ImportError: Without matplotlib (extra `plot`).
        HorizonError: Where a schedule needs more of the horizon than is known.
    """
    svg = picture(configs, "svg").decode()
    title = escape(f"Loss weights: {', '.join(configs)}")
    tables = "\n".join(_table(name, config) for name, config in configs.items())
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<h1>{title}</h1>
{svg[svg.index("<svg") :].strip()}
{tables}
</body>
</html>
"""


def _table(name: str, config: LossConfig) -> str:
    curves = Curves.of(config, points=5)  # the start, the quarters, the end
    head = "".join(f"<th>step {step}</th>" for step in curves.steps)
    rows = "\n".join(
        f"<tr><td>{escape(term)}{' *' if term in curves.adaptive else ''}</td>"
        + "".join(f"<td>{value:.6g}</td>" for value in values)
        + "</tr>"
        for term, values in curves.weights.items()
    )
    note = "<p>* times what a controller or a balancer finds in training</p>"
    table = f"<table>\n<tr><th>term</th>{head}</tr>\n{rows}\n</table>"
    return f"<h2>{escape(name)}</h2>\n<div>\n{table}\n</div>" + (
        f"\n{note}" if curves.adaptive else ""
    )
