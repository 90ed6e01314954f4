"""Tests reach no hub, no network and no tracking store, whatever the machine is set up for."""

import os

os.environ["RETORT_TRACKING"] = "off"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
