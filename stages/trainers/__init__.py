"""What trl's trainers of SFT and of the reward model share."""
