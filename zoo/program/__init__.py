"""A Pyro program: run for one draw or many, its latents laid out, its faults named."""
