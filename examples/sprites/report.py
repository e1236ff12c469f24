"""What the table shows."""

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
    """How the figures came about and how to read them."""
    _, held_out = load_sprites()
    return (
        f"On {len(held_out.images):,} sprites not trained on, after {run.steps:,} steps; ± is the "
        "standard deviation over seeds. Shape to y: by how much the dimension of the code that "
        "knows most of that factor knows more than the second, as a part of the factor's entropy; "
        "MIG is their mean. Reconstruction error and KL in nats an image, from a sample of its "
        f"code; a perfect reconstruction has {least_error(held_out.images):.1f}. Active: "
        f"dimensions whose posterior mean has a variance over {ACTIVE}."
    )
