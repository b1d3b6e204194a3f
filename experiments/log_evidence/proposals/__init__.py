"""What importance weights are drawn from: mixtures of guides, modes that they miss, heavier tails."""
