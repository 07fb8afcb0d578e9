"""Leaves pages out of the navigation that are not there, and links into the repository's other files as they are."""

from pathlib import Path


def on_config(config):
    """Keeps the entries whose page exists."""
    config.nav = _kept(config.nav, Path(config.docs_dir))
    return config


def _kept(entries: list, folder: Path) -> list:
    kept = []
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            if below := _kept(target, folder):
                kept.append({title: below})
        elif (folder / target).exists():
            kept.append(entry)
    return kept
