"""What reaches the disk: atomic files and folders, and the manifest of a bundle."""

from v13.store import manifest
from v13.store.files import (
    copy,
    point,
    read_json,
    sha256_file,
    staged_dir,
    validate,
    write_bytes,
    write_json,
    write_text,
    write_yaml,
)
from v13.store.ledger import HOLDOUT_LEDGER, HoldoutLedger, Look, Seal, Span

__all__ = [
    "HOLDOUT_LEDGER",
    "HoldoutLedger",
    "Look",
    "Seal",
    "Span",
    "copy",
    "manifest",
    "point",
    "read_json",
    "sha256_file",
    "staged_dir",
    "validate",
    "write_bytes",
    "write_json",
    "write_text",
    "write_yaml",
]
