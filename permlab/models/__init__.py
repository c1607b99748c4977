"""Networks that the tasks train, load and save."""
