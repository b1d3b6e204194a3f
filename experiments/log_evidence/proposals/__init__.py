"""Proposals of importance sampling: mixtures of guides, modes that guides miss, heavier tails."""
