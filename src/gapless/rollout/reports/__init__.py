"""What reports of other tools say about a release: text in, a `Finding` of the gate out. Pure."""
