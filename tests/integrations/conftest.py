"""Nothing here is loaded from a hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
