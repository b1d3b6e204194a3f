"""Methods of inference: their protocol, their registry and their options."""
