"""Where this machine's pip gets packages, for pips that run elsewhere: in another root folder, in a container."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

NAMES: Final = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout")


def pip_settings() -> dict[str, str]:
    """pip's settings of this machine that make sense elsewhere: without what names folders of this machine."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    settings = {}
    for name in NAMES:
        for found in re.findall(rf"^(?:global|install|:env:)\.{name}='(.*)'$", listed, re.MULTILINE):
            if value := " ".join(word for word in found.split() if not word.startswith("file:")):
                settings[name] = value
    return settings
