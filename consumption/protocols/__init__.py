"""What upstreams speak, OpenAI's protocol or Anthropic's, and the ways from what callers speak to it and back."""
