"""Certificates and handshakes."""
