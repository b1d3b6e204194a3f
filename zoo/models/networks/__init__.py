"""Models whose networks are latent, or have classes for inputs."""
