"""Augment, sample, train: the visible loop."""
