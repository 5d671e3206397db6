"""The label store and the pages people label and chat in."""
