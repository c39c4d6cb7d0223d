"""The hub over HTTP: routes, their shapes, and the guard before them."""
