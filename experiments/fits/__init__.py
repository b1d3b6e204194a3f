"""A fit while it runs: callbacks, trackers, checkpoints."""
