"""What was measured as one page: findings in sentences, tables, pictures, answers side by side."""
