"""What a lead sees and does: batches, figures, disagreements, forms."""
