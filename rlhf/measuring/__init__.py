"""What is measured of a policy, and how it is drawn."""
