"""Balancers: weights for all terms at once."""

from lossweights.components.balancers.base import Balancer as Balancer
from lossweights.components.balancers.cov import CoVWeighting as CoVWeighting
from lossweights.components.balancers.dwa import DWA as DWA
from lossweights.components.balancers.famo import FAMO as FAMO
from lossweights.components.balancers.geometric import GeometricMean as GeometricMean
from lossweights.components.balancers.gradient.aligned_mtl import AlignedMTL as AlignedMTL
from lossweights.components.balancers.gradient.base import GradientBalancer as GradientBalancer
from lossweights.components.balancers.gradient.base import GramianBalancer as GramianBalancer
from lossweights.components.balancers.gradient.cagrad import CAGrad as CAGrad
from lossweights.components.balancers.gradient.conflict_free import ConFIG as ConFIG
from lossweights.components.balancers.gradient.db_mtl import DBMTL as DBMTL
from lossweights.components.balancers.gradient.dualproj import DualProj as DualProj
from lossweights.components.balancers.gradient.fairgrad import FairGrad as FairGrad
from lossweights.components.balancers.gradient.gradnorm import GradNorm as GradNorm
from lossweights.components.balancers.gradient.gradvac import GradVac as GradVac
from lossweights.components.balancers.gradient.imtl_g import IMTLG as IMTLG
from lossweights.components.balancers.gradient.lr_annealing import LRAnnealing as LRAnnealing
from lossweights.components.balancers.gradient.mgda import MGDA as MGDA
from lossweights.components.balancers.gradient.nash_mtl import NashMTL as NashMTL
from lossweights.components.balancers.gradient.norm_balance import NormBalance as NormBalance
from lossweights.components.balancers.gradient.pcgrad import PCGrad as PCGrad
from lossweights.components.balancers.gradient.upgrad import UPGrad as UPGrad
from lossweights.components.balancers.imtl_l import IMTLL as IMTLL
from lossweights.components.balancers.moving_average import MovingAverage as MovingAverage
from lossweights.components.balancers.random import RandomWeighting as RandomWeighting
from lossweights.components.balancers.relobralo import ReLoBRaLo as ReLoBRaLo
from lossweights.components.balancers.softadapt import SoftAdapt as SoftAdapt
from lossweights.components.balancers.stch import STCH as STCH
from lossweights.components.balancers.uncertainty import (
    UncertaintyWeighting as UncertaintyWeighting,
)
from lossweights.components.balancers.uw_so import UWSO as UWSO
