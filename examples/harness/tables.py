"""Tables of figures over several seeds, for the screen and in Markdown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich import box
from rich.table import Table

Rows = Mapping[str, Sequence[Mapping[str, float]]]  # for each row and seed, the figures by column


@dataclass(frozen=True)
class Column:
    """How a figure is shown.

    Args:
        heading: The heading; it may have several lines on the screen.
        digits: Digits after the point, or a format such as ".1e".
        best: `min` or `max`, if one is better: in Markdown the best mean is bold.
    """

    heading: str
    digits: int | str = 2
    best: Callable[..., float] | None = None

    def format(self, value: float) -> str:
        """The value as text."""
        return format(value, f"z.{self.digits}f" if isinstance(self.digits, int) else self.digits)

    def spread(self, values: Sequence[float]) -> str:
        """The standard deviation, if there are several values."""
        return f"±{self.format(stdev(values))}" if len(values) > 1 else ""


def empty_table(title: str, caption: str, first: str = "config") -> Table:
    """A table with only the column of names."""
    table = Table(
        title=title,
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column(first, no_wrap=True)
    return table


def screen_table(title: str, caption: str, columns: Mapping[str, Column], rows: Rows) -> Table:
    """A row for each name, with means and standard deviations over the seeds."""
    table = empty_table(title, caption)
    for column in columns.values():
        table.add_column(column.heading, justify="right", no_wrap=True)
    for name, seeds in rows.items():
        cells = []
        for key, column in columns.items():
            values = [figures[key] for figures in seeds]
            cells.append(f"{column.format(fmean(values))}\n{column.spread(values)}".rstrip())
        table.add_row(name, *cells)
    return table


def save_markdown(columns: Mapping[str, Column], rows: Rows, path: Path) -> Path:
    """Write the table in Markdown, with the best means in bold."""
    means = {
        key: {name: fmean(figures[key] for figures in seeds) for name, seeds in rows.items()}
        for key in columns
    }
    headings = [" ".join(column.heading.split()) for column in columns.values()]
    lines = [f"| | {' | '.join(headings)} |", "|---" * (len(columns) + 1) + "|"]
    for name, seeds in rows.items():
        cells = []
        for key, column in columns.items():
            shown = column.format(means[key][name])
            if column.best and means[key][name] == column.best(means[key].values()):
                shown = f"**{shown}**"
            spread = column.spread([figures[key] for figures in seeds])
            cells.append(f"{shown} {spread}".replace("±", "± ").rstrip())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
