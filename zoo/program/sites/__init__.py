"""The sites of a program: what its latents are, how they lie in a unit's vector, and which of their elements count."""
