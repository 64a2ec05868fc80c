"""The channel telegram against a Bot API of the tests' own, over real HTTP."""
