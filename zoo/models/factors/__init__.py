"""Factor models whose loadings are latent, too."""
