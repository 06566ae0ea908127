"""Runs: training, evaluating, comparing, and what they leave behind."""
