"""The API: OpenAI's protocol over the engine."""
