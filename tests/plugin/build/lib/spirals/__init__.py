"""A package of somebody else: a model, a data set, a guide and a method for the zoo."""
