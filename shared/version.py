"""The version of everything in this project; ``pyproject.toml`` takes it from here.

It is a literal because reading a package's metadata takes longer than starting, and memory that stays.
"""

VERSION = "0.1.0"
