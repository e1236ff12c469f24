"""Balancers that weigh the terms by their gradients with respect to what they share."""

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

__all__ = [
    "DBMTL",
    "IMTLG",
    "MGDA",
    "AlignedMTL",
    "CAGrad",
    "ConFIG",
    "DualProj",
    "FairGrad",
    "GradNorm",
    "GradVac",
    "GradientBalancer",
    "GramianBalancer",
    "LRAnnealing",
    "NashMTL",
    "NormBalance",
    "PCGrad",
    "UPGrad",
]
