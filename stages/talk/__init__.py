"""Talking to a policy: terminal, page, API."""
