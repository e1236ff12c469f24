"""The columns and the caption of the table."""

from harness.tables import Column
from sprites.data import FACTORS, load_sprites
from sprites.measures import ACTIVE, least_error
from sprites.run import Run

COLUMNS = {
    "mig": Column("MIG", best=max),
    **{factor: Column(factor) for factor in FACTORS},
    "reconstruction": Column("recon.\nerror", 1, best=min),
    "kl": Column("KL", 1),
    "active": Column("active", 1),
}


def caption(run: Run) -> str:
    """How the figures were measured and how to read them."""
    _, held_out = load_sprites()
    return (
        f"On {len(held_out.images):,} held-out sprites, after {run.steps:,} steps. ± is the "
        "standard deviation over seeds. Shape to y: the difference between the two dimensions of "
        "the code with the most information on that factor, as a fraction of the factor's "
        "entropy. MIG is their mean. Reconstruction error and KL are in nats per image, from a "
        "sample of its code. "
        f"A perfect reconstruction has {least_error(held_out.images):.1f}. Active: dimensions "
        f"whose posterior mean has a variance above {ACTIVE}."
    )
