"""Schema versions of the label store, applied in order by Alembic from inside the program."""

from pathlib import Path

from sqlalchemy import Connection

KNOWN = ("0001", "0002", "0003", "0004")
HEAD = KNOWN[-1]


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the database behind a connection to a revision, inside the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
