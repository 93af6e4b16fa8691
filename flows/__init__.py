"""Prefect flows and the command line; every body is a list of verbs."""
