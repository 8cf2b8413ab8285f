"""Where the Functions host finds the app."""

import os

from functions.app import build_app

app = build_app(os.environ)
