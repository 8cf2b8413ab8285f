"""The operator's command ``edb``: talks to the function app's HTTP API and to nothing else."""
