"""The pieces of demo.py: the system driven by its command line, buyers, a view, and the books at the end."""
