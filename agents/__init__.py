"""Ready agents built on the tools: a chat about images, and reasoning segmentation."""
