"""To be written."""


def run(dataset: str, knobs) -> dict:
    raise NotImplementedError
