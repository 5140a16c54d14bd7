"""Other people's tests of the protocols that we speak, unchanged."""
