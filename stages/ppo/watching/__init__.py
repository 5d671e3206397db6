"""What people and programs see of a run while it goes on; none of it changes a number of it."""
