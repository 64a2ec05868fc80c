"""The front door with OpenAI's API, asked by OpenAI's own client over real HTTP."""
