"""The results of the runs, as tables and as files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from harness.json_file import write_json
from harness.tables import Column, save_markdown, screen_table
from molecule_vae.data import HELD_OUT
from molecule_vae.evaluate import LABELED, PRIOR_SAMPLES, PROBE_DRAWS, UNIQUE_AMONG
from molecule_vae.navigate import DISTANCES, STARTS, Navigation
from molecule_vae.options import Run
from molecule_vae.result import Result

CODE = {
    "kl": Column("KL"),
    "nll": Column("NLL"),
    "negative_elbo": Column("-ELBO"),
    "r2_logp": Column("R^2\nlogP"),
    "r2_qed": Column("R^2\nQED"),
    "r2_rings": Column("R^2\nrings"),
}
DECODED = {
    "reconstructed": Column("reconstructed\n%", 1),
    "valid": Column("valid\n%", 1),
    "unique": Column("unique\n%", 1),
    "novel": Column("novel\n%", 1),
}
MOVED = {
    "back": Column("logP\nat -3"),
    "middle": Column("logP\nat 0"),
    "forth": Column("logP\nat +3"),
    "gain": Column("gain\nat +3"),
    "valid": Column("valid\n%", 1),
    "distinct": Column("distinct\n%", 1),
    "similarity": Column("simil.\nat +3"),
    "similarity_at_0": Column("simil.\nat 0"),
}


def save_all(results: Sequence[Result], path: Path) -> Path:
    """Write the results of all runs."""
    return write_json({"runs": [asdict(result) for result in results]}, path)


def by_setup(results: Sequence[Result]) -> list[list[Result]]:
    """The results without labels and those with them, as far as there are any."""
    groups = [[r for r in results if r.with_labels is labels] for labels in (False, True)]
    return [group for group in groups if group]


def by_config(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each config, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.config, []).append(result)
    return groups


def setup(results: Sequence[Result]) -> str:
    """The set-up that these results share, for a title or a file."""
    return "with labels" if results[0].with_labels else "without labels"


def tables(results: Sequence[Result], run: Run) -> list[Table]:
    """What the code holds, what is decoded from it, and what moving it does: a row per config."""
    about_code = (
        f"Trained on {run.molecules:,} molecules of MOSES for {run.total_steps:,} steps "
        f"(epochs: {run.epochs}), measured on {HELD_OUT:,} of its test set. KL, NLL and -ELBO in "
        "nats per molecule, summed over pieces or dimensions; ± is the standard deviation over "
        "seeds. R^2: linear regression from one sample of each code to a property, learned from "
        f"{LABELED} molecules (mean of {PROBE_DRAWS} draws)."
    )
    about_decoded = (
        "Reconstructed: held-out molecules that are decoded exactly from their posterior means. "
        f"Valid, unique, novel: of {PRIOR_SAMPLES:,} samples of the prior, by the definitions of "
        f"MOSES (unique among the first {UNIQUE_AMONG:,} valid ones)."
    )
    about_moved = (
        f"The codes of {STARTS} held-out molecules, moved along the direction of logP by 3 "
        "standard deviations of the prior, and decoded. Gain: logP less that of the start. Valid, "
        "distinct (of all starts) and similarity (Tanimoto, to the start): at +3. If nearly all "
        "codes are decoded to the same molecule, a mean says nothing: look at distinct."
    )
    name, measured, after = setup(results), figures(results), moved_figures(results)
    return [
        screen_table(f"The code, {name}", about_code, CODE, measured),
        screen_table(f"Decoded molecules, {name}", about_decoded, DECODED, measured),
        screen_table(f"Moved along logP, {name}", about_moved, MOVED, after),
    ]


def figures(results: Sequence[Result]) -> dict[str, list[dict[str, float]]]:
    """What was measured at the end: for each config, a row for each seed."""
    return {config: [r.figures for r in group] for config, group in by_config(results).items()}


def moved_figures(results: Sequence[Result]) -> dict[str, list[dict[str, float]]]:
    """What moving along the direction of logP did: for each config, a row for each seed."""
    return {
        config: [moved(r.navigation) for r in group] for config, group in by_config(results).items()
    }


def moved(navigation: Navigation) -> dict[str, float]:
    """The figures at the ends and in the middle of the path."""
    middle = DISTANCES.index(0.0)
    return {
        "back": navigation.logp[0],
        "middle": navigation.logp[middle],
        "forth": navigation.logp[-1],
        "gain": navigation.gain[-1],
        "valid": navigation.valid[-1],
        "distinct": navigation.distinct[-1],
        "similarity": navigation.similarity[-1],
        "similarity_at_0": navigation.similarity[middle],
    }


def save_markdown_tables(results: Sequence[Result], folder: Path) -> list[Path]:
    """The tables of each set-up in Markdown."""
    files = []
    for group in by_setup(results):
        name, measured = setup(group).replace(" ", "-"), figures(group)
        files += [
            save_markdown(CODE, measured, folder / f"{name}-code.md"),
            save_markdown(DECODED, measured, folder / f"{name}-decoded.md"),
            save_markdown(MOVED, moved_figures(group), folder / f"{name}-moved.md"),
        ]
    return files
