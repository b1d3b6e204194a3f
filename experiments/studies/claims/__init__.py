"""The claims of the theory, one study each."""
