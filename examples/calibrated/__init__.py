"""What `calibration.py` trains: four problems of the other examples, in one form."""
