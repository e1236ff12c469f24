"""The problems of `calibration.py`, its tuning by hand, and its reports."""
