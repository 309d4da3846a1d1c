"""One process with one pair of models, reached over HTTP, over MCP and with a browser."""
