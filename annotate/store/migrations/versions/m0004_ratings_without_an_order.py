"""Answers may be rated and flagged where none is acceptable and nobody put them in order: an item without a rank."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("ranking_item") as table:  # SQLite copies the table to change a column
        table.alter_column("rank", existing_type=sa.Integer(), nullable=True)
