"""The web console: pages that show the records and figures as they change, and the acts of the command line."""
