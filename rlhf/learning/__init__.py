"""The mathematics of training: passes, losses, advantages, rewards, optimizers."""
