"""What the answers say of labelers, checkpoints and themselves."""
