"""The version, said once: by pyproject.toml, `--version` and every recording's metadata."""

__version__ = "0.1.0"
