"""Ready agents built on the tools: a chat about pictures, and reasoning segmentation."""
