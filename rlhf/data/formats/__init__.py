"""The table of formats and the readers of its rows."""
