"""The ways in which callers speak: our own API and OpenAI's."""
