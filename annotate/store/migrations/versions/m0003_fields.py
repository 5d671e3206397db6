"""Fields that a lead's own page asks for, stored with each answer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("annotation", sa.Column("fields", sa.JSON(), nullable=False, server_default="{}"))
