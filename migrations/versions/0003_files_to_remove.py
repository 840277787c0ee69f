"""Files that nothing refers to any more, and the digest of what is quarantined

Expands only: a new table, and a column with a default, so the release before goes on with the same database.
"""

import sqlalchemy as sa
from alembic import op

from hilum.adapters.sql.schema import refuse_to_lose

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "removals",
        sa.Column("uri", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uri", name=op.f("pk_removals")),
        comment="listener/assemble: files of the spool that nothing refers to any more, until they are gone",
    )
    with op.batch_alter_table("quarantine", schema=None) as batch_op:
        batch_op.add_column(sa.Column("sha256", sa.String(length=64), server_default="", nullable=False))
        batch_op.create_index(batch_op.f("ix_quarantine_sop_instance_uid"), ["sop_instance_uid"], unique=False)


def downgrade() -> None:
    refuse_to_lose(op.get_bind(), "removals")
    with op.batch_alter_table("quarantine", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_quarantine_sop_instance_uid"))
        batch_op.drop_column("sha256")
    op.drop_table("removals")
