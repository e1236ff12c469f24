"""What the search of the pages finds first: a local Sphinx extension.

Sphinx puts an entry of its index, if it matches, before titles, classes and text. Each section
about a kind gets entries with the names of the kind. Words that people search for, and that no
kind has as a name, are in the tables below.
"""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from lossweights import Balancer, Component, Controller, Schedule, Transform

# Words that belong to the section of a kind.
OF_KINDS = {
    "cyclical": ["cyclical annealing", "cyclical KL annealing"],
    "warmup": ["warm-up", "linear warmup"],
    "uncertainty": ["uncertainty weighting", "homoscedastic uncertainty", "learned weights"],
    "dwa": ["dynamic weight average"],
    "free-bits": ["free bits", "minimum KL"],
    "adaptive-kl": ["adaptive KL", "KL controller"],
    "lagrangian": ["Lagrange multiplier", "constraint", "GECO"],
    "pid": ["ControlVAE", "PID controller"],
    "lr-annealing": ["learning rate annealing"],
    "ntk": ["neural tangent kernel"],
}
# Words that belong to a page.
OF_PAGES = {
    "recipes/vae": [
        "KL annealing",
        "beta annealing",
        "posterior collapse",
        "KL vanishing",
        "ELBO",
    ],
    "recipes/multi_task": ["multi-task learning", "multi-task loss"],
    "recipes/pinn": ["physics-informed", "PINN loss weights"],
    "which": ["loss weighting", "loss weights", "loss balancing", "adaptive loss weights"],
    "choosing": ["choose weights", "tune loss weights"],
    "schedules": ["annealing", "schedule"],
    "gradients": ["gradient conflict", "conflicting gradients", "gradient surgery"],
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects the function below."""
    app.connect("doctree-read", add_entries)
    return {"parallel_read_safe": True}


def add_entries(app: Sphinx, document: nodes.document) -> None:
    """Adds the entries of a page to the index; those of the reference are Sphinx's own."""
    page = app.env.docname
    if page.startswith("reference/"):
        return
    for section in document.findall(nodes.section):
        words = names(section[0].astext())
        if isinstance(section.parent, nodes.document):
            words += OF_PAGES.get(page, [])
        if words:
            section.insert(1, entries(words, section["ids"][0]))


def names(heading: str) -> list[str]:
    """All names of the kind that a heading is about.

    >>> names("nash-mtl")
    ['nash-mtl', 'nash mtl', 'NashMTL']
    >>> names("uncertainty")  # doctest: +ELLIPSIS
    ['uncertainty', 'UncertaintyWeighting', 'uncertainty weighting', ...]
    >>> names("Evaluation")
    []
    """
    families: tuple[type[Component], ...] = (Balancer, Controller, Schedule, Transform)
    for family in families:
        if kind := family.kinds().get(heading):
            words = [heading, heading.replace("-", " "), kind.__name__, *OF_KINDS.get(heading, [])]
            return list({word.lower(): word for word in words}.values())
    return []


def entries(words: list[str], anchor: str) -> addnodes.index:
    """A node of Sphinx that is not drawn."""
    return addnodes.index(entries=[("single", word, anchor, "main", None) for word in words])
