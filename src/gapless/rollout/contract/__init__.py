"""OpenAPI: what a release promises, whether its answers keep it, and what callers of the release before would miss.
Pure."""
