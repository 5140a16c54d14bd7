"""HTTP/1.1: llhttp splits the bytes, uvloop moves them."""
