"""Compose whole jobs: ingest a folder, train, segment a folder, evaluate."""
