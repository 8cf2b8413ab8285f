"""The project's function app with proxies before hub and vault, as the state folder's ``proxies.json`` says.

What is behind the proxies is told to them through ``upstream.json``, once the local cloud knows it.
"""

import json
import os
from pathlib import Path

from functions.app import build_app

_STATE = Path(os.environ["EDB_AUDIT_FOLDER"]).parent
_PROXIES = json.loads((_STATE / "proxies.json").read_text())
(_STATE / "upstream.json").write_text(
    json.dumps(
        {"hub": f"https://{os.environ['EDB_IOT_HUB_HOSTNAME']}", "vault": os.environ["EDB_KEY_VAULT_URL"]}
    )
)

app = build_app(
    {
        **os.environ,
        "EDB_IOT_HUB_HOSTNAME": _PROXIES["hub"].removeprefix("https://"),
        "EDB_KEY_VAULT_URL": _PROXIES["vault"],
    }
)
