"""Answers leaving and entering the label store: choices, snapshots, exports, imports."""
