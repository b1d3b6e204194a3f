"""The registered models: one file a family, each in its field's standard notation."""
