"""Released weights: their names, their download, and the one strict way to load them."""
