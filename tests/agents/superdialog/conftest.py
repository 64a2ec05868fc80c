"""What superdialog's agents need around them: no network, a journal for tools, and the shop's HTTP service."""

from __future__ import annotations

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # read when superdialog imports litellm
