"""The components of a config: schedules, controllers, balancers and transforms."""
