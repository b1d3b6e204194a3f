"""Any Pyro guide as one of ours."""
