"""Connections, whatever they speak, and how they pass from workers that leave to those that serve on."""
