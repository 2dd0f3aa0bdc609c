"""The ways in which callers speak: our own API, OpenAI's and Anthropic's."""
