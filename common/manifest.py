"""A manifest: a JSON text that carries the SHA-256 of everything else in it, as bundles and edge folders have one.

The digest shows damage; it does not stop a forger, who can compute it too.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def sealed(manifest: dict[str, Any]) -> str:
    """The manifest's one text, with "sha256" over the rest; an old "sha256" is replaced."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest).encode()).hexdigest()
    return json.dumps({**rest, "sha256": digest}, indent=1) + "\n"
