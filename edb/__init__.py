"""The operator's command ``edb``: talks to the function app's HTTP API and to nothing else."""

VERSION = "0.1.0"
"""The project's version; here as a literal because reading package metadata takes longer than starting."""
