"""What labelers do: batches, places, answers, drafts, verdicts."""
