"""Policies measured against each other."""
