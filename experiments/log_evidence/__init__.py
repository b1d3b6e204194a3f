"""log p(x | θ): its estimators, from the most to the least trusted, and what they come to."""
