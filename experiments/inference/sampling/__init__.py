"""Methods that sample: they leave draws behind, in a guide that is known by these alone."""
