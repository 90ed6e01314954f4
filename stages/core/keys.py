"""Keys: from the environment or from `.env`, which git ignores, and from nowhere else."""

import os


def key_named(name: str) -> str:
    """The key in that environment variable or line of `.env`; empty where there is none."""
    from dotenv import dotenv_values

    return (os.environ.get(name) or dotenv_values(".env").get(name) or "").strip()
