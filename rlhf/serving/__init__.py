"""The engine behind chat and the API: many requests, one running batch."""
