"""Measure objects and score labels: counts first, ratios last."""
