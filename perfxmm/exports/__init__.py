"""How does a program get it? One module per format."""
