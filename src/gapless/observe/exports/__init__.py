"""What other programs need to know of a system, made of its gapless.yaml."""
