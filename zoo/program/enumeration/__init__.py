"""Discrete latents summed out of a program's density, exactly, over Pyro's own enumeration; and drawn again afterwards."""
