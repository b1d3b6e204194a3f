"""Methods that find one normal without climbing the ELBO: at the mode, or on the way to it."""
