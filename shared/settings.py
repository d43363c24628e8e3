"""Settings from the environment (`HAECHI_…`), then from `$HAECHI_HOME/settings.toml`, then the defaults below.

The environment wins, so that a container or a test can override a file without editing it. Unknown keys in the file
are errors that name the nearest known key.
"""

from __future__ import annotations

import difflib
import functools
import os
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import BadInput


class Settings(BaseModel):
    """Where things live on this machine and how it is configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path
    """Folder of everything Haechi keeps: registry, records, keys, caches. `HAECHI_HOME`, default `~/.haechi`."""
    database_url: str = ""
    """SQLAlchemy URL of the records. `HAECHI_DATABASE_URL`, default SQLite at `<home>/records.db`."""
    log_level: str = "INFO"
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`. `HAECHI_LOG_LEVEL`."""
    threads: int = 0
    """Threads for inference; 0 means one for each core this process may use. `HAECHI_THREADS`."""

    @property
    def registry(self) -> Path:
        return self.home / "registry"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def keys(self) -> Path:
        return self.home / "keys"


def _from_file(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}.") from error
    known = list(Settings.model_fields)
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; known keys: {', '.join(known)}."
            raise BadInput(f"{path}: unknown setting {key}{hint}")
    return values


@functools.cache
def load() -> Settings:
    """The settings of this process, read once. Call `load.cache_clear()` after changing the environment in a test."""
    home = Path(os.environ.get("HAECHI_HOME") or Path.home() / ".haechi").expanduser().absolute()
    values: dict[str, object] = {"home": home} | _from_file(home / "settings.toml")
    for name in Settings.model_fields:
        value = os.environ.get(f"HAECHI_{name.upper()}")
        if value:
            values[name] = value
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"setting {field} (HAECHI_{field.upper()} or {home / 'settings.toml'}): {first['msg']}."
        ) from error
    settings = settings.model_copy(update={"home": settings.home.expanduser().absolute()})
    if not settings.database_url:
        settings = settings.model_copy(update={"database_url": f"sqlite:///{settings.home / 'records.db'}"})
    return settings
