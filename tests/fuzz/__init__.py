"""What comes from outside, made up by Hypothesis: templates, manifests, requests, uploads. `make fuzz` goes on for an hour each."""
