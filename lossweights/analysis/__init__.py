"""Tools that look at a config or a training: `History`, `plot`, `calibrate`, `Monitor`."""

from lossweights.analysis import plot
from lossweights.analysis.calibration import Calibration, calibrate
from lossweights.analysis.history import History
from lossweights.analysis.monitor import Finding, Monitor, diagnose

__all__ = ["Calibration", "Finding", "History", "Monitor", "calibrate", "diagnose", "plot"]
