"""How good it is: how fast a model runs here, and how near that comes to what the machine could do."""
