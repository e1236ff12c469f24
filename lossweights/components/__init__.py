"""What a config can contain: schedules, controllers, balancers and transforms."""
