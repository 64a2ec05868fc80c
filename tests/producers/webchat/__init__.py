"""Web chat: tokens, feeds, the WebSocket and the event stream over real HTTP, and the page in a real browser."""
