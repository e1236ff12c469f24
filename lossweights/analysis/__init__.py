"""Looking at a config or a run: histories, plots, findings."""
