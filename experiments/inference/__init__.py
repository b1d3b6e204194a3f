"""Methods of inference: what a method is, which there are, and the options of each."""
