"""Balancers: weights for all terms at once."""

from lossweights.components.balancers.base import Balancer
from lossweights.components.balancers.cov import CoVWeighting
from lossweights.components.balancers.dwa import DWA
from lossweights.components.balancers.famo import FAMO
from lossweights.components.balancers.geometric import GeometricMean
from lossweights.components.balancers.gradient import (
    DBMTL,
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GradientBalancer,
    GradNorm,
    GradVac,
    GramianBalancer,
    LRAnnealing,
    NashMTL,
    NormBalance,
    PCGrad,
    UPGrad,
)
from lossweights.components.balancers.imtl_l import IMTLL
from lossweights.components.balancers.moving_average import MovingAverage
from lossweights.components.balancers.random import RandomWeighting
from lossweights.components.balancers.relobralo import ReLoBRaLo
from lossweights.components.balancers.softadapt import SoftAdapt
from lossweights.components.balancers.stch import STCH
from lossweights.components.balancers.uncertainty import UncertaintyWeighting

__all__ = [
    "DBMTL",
    "DWA",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "STCH",
    "AlignedMTL",
    "Balancer",
    "CAGrad",
    "CoVWeighting",
    "ConFIG",
    "DualProj",
    "FairGrad",
    "GeometricMean",
    "GradNorm",
    "GradVac",
    "GradientBalancer",
    "GramianBalancer",
    "LRAnnealing",
    "MovingAverage",
    "NashMTL",
    "NormBalance",
    "PCGrad",
    "RandomWeighting",
    "ReLoBRaLo",
    "SoftAdapt",
    "UPGrad",
    "UncertaintyWeighting",
]
