"""The process that serves: a fresh interpreter with the application in it."""
