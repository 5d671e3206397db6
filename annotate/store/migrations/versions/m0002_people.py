"""Sessions, drafts, gold questions, adjudication, webhooks, live batches and chat conversations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TRUE, FALSE = sa.true(), sa.false()


def upgrade() -> None:
    _extend_tables()
    _add_indexes()
    _add_account_tables()
    _add_work_tables()
    _add_chat_tables()


def _extend_tables() -> None:
    columns: dict[str, list[sa.Column]] = {
        "labeler": [
            sa.Column("origin", sa.String(20), nullable=False, server_default="person"),
            sa.Column("active", sa.Boolean(), nullable=False, server_default=TRUE),
        ],
        "batch": [
            sa.Column("quota", sa.Integer(), nullable=False, server_default="0"),
            sa.Column("task_order", sa.String(20), nullable=False, server_default="random"),
            sa.Column("gold_every", sa.Integer(), nullable=False, server_default="10"),
            sa.Column("open", sa.Boolean(), nullable=False, server_default=TRUE),
            sa.Column("origin", sa.String(20), nullable=False, server_default="label"),
            sa.Column("live", sa.JSON(), nullable=True),
            sa.Column("webhook_url", sa.Text(), nullable=False, server_default=""),
            sa.Column("webhook_secret", sa.Text(), nullable=False, server_default=""),
            sa.Column("completed", sa.Float(), nullable=True),
        ],
        "task": [
            sa.Column("shuffle", sa.Integer(), nullable=False, server_default="0"),
            sa.Column("gold", sa.JSON(none_as_null=True), nullable=True),
        ],
        "lease": [sa.Column("created", sa.Float(), nullable=False, server_default="0")],
        "annotation": [
            sa.Column("verdict", sa.String(20), nullable=True),
            sa.Column("strength", sa.Integer(), nullable=True),
            sa.Column("none_acceptable", sa.Boolean(), nullable=False, server_default=FALSE),
            sa.Column("adjudicates", sa.Boolean(), nullable=False, server_default=FALSE),
            sa.Column("origin", sa.String(20), nullable=False, server_default="label"),
            sa.Column("context", sa.JSON(), nullable=True),
            sa.Column("lease_s", sa.Float(), nullable=True),
        ],
    }
    for table, added in columns.items():
        for column in added:
            op.add_column(table, column)
    op.execute("UPDATE labeler SET origin = 'simulated' WHERE simulated")
    op.execute("UPDATE labeler SET origin = 'imported' WHERE name = 'imported'")
    op.execute("ALTER TABLE labeler DROP COLUMN simulated")
    op.execute("UPDATE annotation SET none_acceptable = true, kind = 'rank' WHERE kind = 'none_acceptable'")
    op.execute("UPDATE task SET shuffle = (CAST(id AS BIGINT) * 40503) % 65521")  # an int4 overflows


def _add_indexes() -> None:
    open_task = sa.text("done < overlap")
    for name, columns in {"task_random": ["shuffle"], "task_priority": ["priority", "shuffle"]}.items():
        op.create_index(
            name, "task", ["batch_id", *columns], sqlite_where=open_task, postgresql_where=open_task
        )
    op.create_index("annotation_by_time", "annotation", ["created"])
    op.create_index("lease_of_labeler", "lease", ["labeler_id"])


def _add_account_tables() -> None:
    op.create_table(
        "session",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("labeler_id", sa.Integer(), sa.ForeignKey("labeler.id"), nullable=False, index=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False, index=True),
    )
    op.create_table(
        "login_failure",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("address", sa.String(100), nullable=False),
        sa.Column("created", sa.Float(), nullable=False, index=True),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("labeler_id", sa.Integer(), sa.ForeignKey("labeler.id"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=True),
        sa.Column("revoked", sa.Float(), nullable=True),
    )


def _add_work_tables() -> None:
    op.create_table(
        "draft",
        sa.Column("task_id", sa.Integer(), sa.ForeignKey("task.id"), primary_key=True),
        sa.Column("labeler_id", sa.Integer(), sa.ForeignKey("labeler.id"), primary_key=True),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("saved", sa.Float(), nullable=False),
    )
    op.create_table(
        "live_request",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("batch_id", sa.Integer(), sa.ForeignKey("batch.id"), nullable=False),
        sa.Column("prompt_id", sa.Integer(), sa.ForeignKey("prompt.id"), nullable=False),
        sa.Column("task_id", sa.Integer(), sa.ForeignKey("task.id"), nullable=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("claimed", sa.Float(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False, server_default=""),
    )
    op.create_index("live_request_by_state", "live_request", ["batch_id", "state"])
    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("batch_id", sa.Integer(), sa.ForeignKey("batch.id"), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_attempt", sa.Float(), nullable=False),
        sa.Column("delivered", sa.Float(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False, server_default=""),
    )


def _add_chat_tables() -> None:
    op.create_table(
        "conversation",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("labeler_id", sa.Integer(), sa.ForeignKey("labeler.id"), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("updated", sa.Float(), nullable=False),
    )
    op.create_index("conversation_of_labeler", "conversation", ["labeler_id", "updated"])
    op.create_table(
        "message",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "conversation_id", sa.Integer(), sa.ForeignKey("conversation.id"), nullable=False, index=True
        ),
        sa.Column("parent_id", sa.Integer(), sa.ForeignKey("message.id"), nullable=True),
        sa.Column("client_id", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=True),
        sa.Column("checkpoint", sa.String(300), nullable=False),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
    )
