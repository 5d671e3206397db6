"""Talking to checkpoints: the chat page, and the same engine for programs in OpenAI's protocol."""
