"""How does a person see it? rich renderables and text from results."""
