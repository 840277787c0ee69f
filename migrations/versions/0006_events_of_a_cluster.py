"""The event log of a cluster: outbox, offsets by partition; dead letters that can be published again

Expands only: new tables, and columns with a default or that may be null, so the release before goes on with the same
database. The key of dead letters grows by a column, which on one machine is always 0.
"""

import sqlalchemy as sa
from alembic import op

from hilum.adapters.sql.schema import refuse_to_lose

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UNIQUE = "uq_dead_letters_consumer_group"


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("topic", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
        comment="every service in its own transaction; the relay that leads publishes to Kafka and deletes",
    )
    op.create_table(
        "partition_offsets",
        sa.Column("consumer_group", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_group", "topic", "partition", name=op.f("pk_partition_offsets")),
        comment="each consumer group its own rows, in the transaction of what a message caused",
    )
    with op.batch_alter_table("dead_letters", schema=None) as batch_op:
        batch_op.add_column(sa.Column("partition", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("headers", sa.JSON(), server_default=sa.text("'{}'"), nullable=False))
        batch_op.add_column(sa.Column("attempt", sa.Integer(), server_default="1", nullable=False))
        batch_op.add_column(sa.Column("replayed_at", sa.BigInteger(), nullable=True))
        batch_op.drop_constraint(_UNIQUE, type_="unique")
        batch_op.create_unique_constraint(_UNIQUE, ["consumer_group", "topic", "partition", "offset"])
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("headers", sa.JSON(), server_default=sa.text("'{}'"), nullable=False))


def downgrade() -> None:
    refuse_to_lose(op.get_bind(), "outbox", "partition_offsets")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("headers")
    with op.batch_alter_table("dead_letters", schema=None) as batch_op:
        batch_op.drop_constraint(_UNIQUE, type_="unique")
        batch_op.create_unique_constraint(_UNIQUE, ["consumer_group", "topic", "offset"])
        batch_op.drop_column("replayed_at")
        batch_op.drop_column("attempt")
        batch_op.drop_column("headers")
        batch_op.drop_column("partition")
    op.drop_table("partition_offsets")
    op.drop_table("outbox")
