"""Balancers: weights for all terms at once."""

from lossweights.components.balancers.base import Balancer
from lossweights.components.balancers.cov import CoVWeighting
from lossweights.components.balancers.dwa import DWA
from lossweights.components.balancers.famo import FAMO
from lossweights.components.balancers.geometric import GeometricMean
from lossweights.components.balancers.gradient.aligned_mtl import AlignedMTL
from lossweights.components.balancers.gradient.base import GradientBalancer, GramianBalancer
from lossweights.components.balancers.gradient.cagrad import CAGrad
from lossweights.components.balancers.gradient.conflict_free import ConFIG
from lossweights.components.balancers.gradient.db_mtl import DBMTL
from lossweights.components.balancers.gradient.dualproj import DualProj
from lossweights.components.balancers.gradient.fairgrad import FairGrad
from lossweights.components.balancers.gradient.gradnorm import GradNorm
from lossweights.components.balancers.gradient.gradvac import GradVac
from lossweights.components.balancers.gradient.imtl_g import IMTLG
from lossweights.components.balancers.gradient.lr_annealing import LRAnnealing
from lossweights.components.balancers.gradient.mgda import MGDA
from lossweights.components.balancers.gradient.nash_mtl import NashMTL
from lossweights.components.balancers.gradient.norm_balance import NormBalance
from lossweights.components.balancers.gradient.pcgrad import PCGrad
from lossweights.components.balancers.gradient.upgrad import UPGrad
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
