"""Back ends: one folder per framework, loaded late and by name through `registry`."""
