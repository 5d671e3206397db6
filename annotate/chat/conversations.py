"""Chat conversations of one account: a tree of messages, since an answer can be asked for twice and a question edited."""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, insert, or_, select, update

from annotate.store.accounts import labeler_id
from annotate.store.database import Database, retried, storable
from annotate.store.schema import Conversation, Message
from rlhf.data import ROLES
from rlhf.errors import LabelError


@dataclass(frozen=True)
class StoredMessage:
    """One turn; messages with the same parent are branches. ended: whether the model stopped by itself."""

    id: int
    parent: int | None
    role: str
    content: str
    ended: bool | None
    checkpoint: str
    sampling: dict[str, Any]
    created: float


@dataclass(frozen=True)
class ConversationHead:
    """A conversation as a list shows it."""

    id: int
    title: str
    settings: dict[str, Any]
    created: float
    updated: float


def start_conversation(database: Database, labeler: str, settings: dict[str, Any], title: str = "") -> int:
    """Make an empty conversation; returns its id. settings: whatever the chat page keeps with it."""
    now = time.time()
    row = {"title": storable(title), "settings": storable(settings), "created": now, "updated": now}
    with database.write() as connection:
        number = labeler_id(connection, labeler)
        new = insert(Conversation).values(labeler_id=number, **row).returning(Conversation.id)
        return connection.execute(new).scalar_one()


@retried
def add_message(
    database: Database, labeler: str, conversation: int, *, client_id: str, role: str, content: str,
    parent: int | None = None, ended: bool | None = None, checkpoint: str = "", sampling: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Keep one turn; returns its id, the earlier one's for a client id that is known.

    parent: the message it follows, None for the first turn. Raises LabelError for a parent of another conversation.
    """
    if role not in ROLES or not 1 <= len(client_id) <= 64:
        raise LabelError(
            f"message: the role is one of {', '.join(ROLES)}, a client id has 1 to 64 characters"
        )
    now = time.time()
    with database.write() as connection:
        _own(connection, labeler, conversation, lock=True)
        known = connection.execute(
            select(Message.id, Message.conversation_id).where(Message.client_id == client_id)
        ).first()
        if known is not None:
            if known.conversation_id != conversation:
                raise LabelError("this client id belongs to another message; make a new one")
            return known.id
        if parent is not None:
            there = and_(Message.id == parent, Message.conversation_id == conversation)
            if connection.execute(select(Message.id).where(there)).first() is None:
                raise LabelError(f"message {parent}: no such message in conversation {conversation}")
        row = {"client_id": client_id, "role": role, "content": storable(content), "ended": ended}
        row |= {"checkpoint": checkpoint, "sampling": storable(sampling or {}), "created": now}
        new = insert(Message).values(conversation_id=conversation, parent_id=parent, **row)
        number = connection.execute(new.returning(Message.id)).scalar_one()
        chosen = Conversation.id == conversation
        connection.execute(update(Conversation).where(chosen).values(updated=now))
        return number


def messages(database: Database, labeler: str, conversation: int) -> list[StoredMessage]:
    """Every message of an own conversation, branches too, oldest first."""
    columns = (
        Message.id, Message.parent_id, Message.role, Message.content, Message.ended, Message.checkpoint,
        Message.sampling, Message.created,
    )  # fmt: skip
    with database.read() as connection:
        _own(connection, labeler, conversation)
        query = select(*columns).where(Message.conversation_id == conversation).order_by(Message.id)
        return [StoredMessage(*row) for row in connection.execute(query)]


def settings_of(database: Database, labeler: str, conversation: int) -> dict[str, Any]:
    """What the chat page keeps with an own conversation."""
    with database.read() as connection:
        _own(connection, labeler, conversation)
        query = select(Conversation.settings).where(Conversation.id == conversation)
        return connection.execute(query).scalar_one()


def conversations(
    database: Database, labeler: str, search: str = "", limit: int = 50, offset: int = 0
) -> list[ConversationHead]:
    """Own conversations, last used first; `search` looks in titles and messages, in any case of letters."""
    columns = [getattr(Conversation, name) for name in ("id", "title", "settings", "created", "updated")]
    with database.read() as connection:
        query = select(*columns).where(Conversation.labeler_id == labeler_id(connection, labeler))
        if search:
            has_messages = exists().where(
                Message.conversation_id == Conversation.id,
                Message.content.icontains(storable(search), autoescape=True),
            )
            query = query.where(
                or_(has_messages, Conversation.title.icontains(storable(search), autoescape=True))
            )
        newest = query.order_by(Conversation.updated.desc(), Conversation.id.desc())
        return [ConversationHead(*row) for row in connection.execute(newest.limit(limit).offset(offset))]


def rename_conversation(database: Database, labeler: str, conversation: int, title: str) -> None:
    with database.write() as connection:
        _own(connection, labeler, conversation)
        chosen = update(Conversation).where(Conversation.id == conversation)
        connection.execute(chosen.values(title=storable(title)[:200]))


def change_settings(database: Database, labeler: str, conversation: int, settings: dict[str, Any]) -> None:
    """Replace what the chat page keeps with a conversation."""
    with database.write() as connection:
        _own(connection, labeler, conversation)
        chosen = update(Conversation).where(Conversation.id == conversation)
        connection.execute(chosen.values(settings=storable(settings)))


@retried
def delete_conversation(database: Database, labeler: str, conversation: int) -> None:
    """Delete an own conversation with its messages. Feedback that was given on it stays, as every annotation does."""
    with database.write() as connection:
        _own(connection, labeler, conversation, lock=True)
        mine = Message.conversation_id == conversation
        connection.execute(update(Message).where(mine).values(parent_id=None))
        connection.execute(delete(Message).where(mine))
        connection.execute(delete(Conversation).where(Conversation.id == conversation))


def _own(connection: Connection, labeler: str, conversation: int, lock: bool = False) -> None:
    """Raises the same LabelError for another account's conversation as for one that does not exist."""
    mine = and_(Conversation.id == conversation, Conversation.labeler_id == labeler_id(connection, labeler))
    query = select(Conversation.id).where(mine)
    if connection.execute(query.with_for_update(key_share=True) if lock else query).first() is None:
        raise LabelError(f"conversation {conversation}: no such conversation")
